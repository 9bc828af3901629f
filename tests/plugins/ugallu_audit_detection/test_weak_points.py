"""What was wrong with audit-detection once: rows about rules, a test each, and where those of all other rows are."""

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from ugallu.errors import PermanentError
from ugallu.sdk import Placement
from ugallu.testing.audit import audit_record
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.ingest import Ingest
from ugallu_audit_detection.operator import AuditDetection
from ugallu_audit_detection.sigma.match import Matcher

TESTS = Path(__file__).parents[2]


def armed(name: str = "rule", labels: dict[str, str] | None = None, **changes: Any) -> Armed:
    return arm(name, rule_spec(**changes), labels or {})


def hits(match: dict[str, Any], **event: Any) -> bool:
    return armed(match=match).compiled.matches(audit_record(**event))


@pytest.mark.parametrize(
    ("match", "event"),
    [
        ({"stage": ["Panic"]}, {"stage": "Panic"}),
        ({"responseCode": ["4xx"]}, {"responseStatus": {"code": 403}}),
        ({"responseMessageGlob": ["*no matching signatures*"]},
         {"responseStatus": {"code": 400, "message": "admission webhook: no matching signatures"}}),
        ({"impersonatedUser": {"groups": ["system:masters"]}},
         {"impersonatedUser": {"username": "x", "groups": ["system:masters"]}}),
        ({"requestURIGlob": ["*command=/bin/sh*"]}, {"requestURI": "/api/v1/x/exec?command=%2Fbin%2Fsh"}),
        ({"userAgentGlob": ["curl/*"]}, {"userAgent": "curl/8.0"}),
        ({"sourceIPs": ["203.0.113.0/24"]}, {"sourceIPs": ["10.0.0.1", "203.0.113.9"]}),
        ({"annotations": {"imagepolicywebhook.image-policy.k8s.io/failed-open": ["true"]}},
         {"annotations": {"imagepolicywebhook.image-policy.k8s.io/failed-open": "true"}}),
        ({"responseObjectGlob": [{"jsonPath": "$.spec.volumes[*].name", "patterns": ["kube-api-access-*"]}]},
         {"responseObject": {"spec": {"volumes": [{"name": "kube-api-access-x"}]}}}),
        ({"fieldAbsent": ["$.metadata.labels['pod-security.kubernetes.io/enforce']"]},
         {"verb": "patch", "requestObject": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}}),
    ],
)  # fmt: skip
def test_w13_rules_see_all_of_an_event(match: dict[str, Any], event: dict[str, Any]) -> None:
    """Stage, answer, whom a caller acts as, URI, agent, address, annotations, the response, and what was taken away."""
    assert hits(match, **event)
    assert not hits(match)


def test_w13_what_no_single_event_shows_can_be_asked_too() -> None:
    """What stood there before, which Pod it is, which rights are behind it."""
    for asked in (
        {"objectRef": {"resource": ["pods"]}, "previous": [{"jsonPath": "$.a", "patterns": ["*"]}]},
        {"targetPod": [{"jsonPath": "$pod.hostPID", "patterns": ["true"]}]},
        {"roleGrants": [{"verbs": ["*"]}]},
        {"serviceAccountGrants": [{"verbs": ["*"]}]},
    ):
        assert armed(match=asked).compiled.asks


def test_w14_exclusions_are_as_many_as_life_needs() -> None:
    """Several `noneOf` in a rule, and exceptions that each say who answers for them."""
    exception = {"name": "backup", "owner": "team", "reason": "nightly", "match": {"userGlob": ["backup"]}}
    rule = armed(
        match={"verb": ["get"], "noneOf": [{"namespaceGlob": ["kube-*"]}, {"userGlob": ["system:*"]}]},
        suppress={"exceptions": [exception, {**exception, "name": "audit", "match": {"userGlob": ["auditor"]}}]},
    )
    events = [audit_record(user={"username": name}) for name in ("alice", "backup", "auditor", "system:node:a")] + [
        audit_record(objectRef={"resource": "pods", "namespace": "kube-system", "name": "a"})
    ]
    assert [rule.says(event) for event in events] == [True, False, False, False, False]


def test_w15_a_rule_that_is_looked_at_again_gets_no_fresh_bucket() -> None:
    """Nor does a new version with the same budget: a burst a half minute was no limit."""
    engine = Engine()
    limit = {"burst": 2, "sustainedPerSec": 1}
    found = 0
    for number in range(6):
        engine.arm(armed(rateLimit=limit, description=f"version {number}"))
        findings = engine.inspect(audit_record(auditID=str(number), user={"username": f"u{number}"}))
        found += sum(finding.signals.get("rule") == "rule" for finding in findings)
    assert found == 2


def test_w16_and_w17_counts_survive_a_restart_and_a_new_version_in_flight() -> None:
    """The tally is the rule's, whichever version and process counts on it."""
    first = Engine()
    first.arm(armed())
    batch = first.inspect_batch([audit_record(), audit_record(user={"username": "bob"})])
    next(iter(batch))
    first.arm(armed(description="a new version, while a batch is under way"))
    list(batch)
    second = Engine()
    second.restore(first.snapshot())
    second.arm(armed())
    second.inspect(audit_record(user={"username": "carol"}))
    assert second.tallies.of("rule").share()[0] == 3


def test_w18_a_bad_edit_is_an_error_and_no_removal() -> None:
    """What does not compile never gets as far as the engine; what served goes on."""
    engine = Engine()
    engine.arm(armed())
    with pytest.raises(PermanentError):
        armed(match={"objectGlob": [{"jsonPath": "$..a", "patterns": ["*"]}]})
    assert engine.inspect(audit_record())


def test_w24_an_event_meets_the_rules_about_it_and_no_others() -> None:
    """Verb, group and resource select; a thousand rules about other things cost one look."""
    others = [
        armed(f"r{n}", match={"verb": ["create"], "objectRef": {"resource": [f"kind{n}"]}}).compiled for n in range(999)
    ]
    mine = armed("mine", match={"verb": ["get"], "objectRef": {"resource": ["pods"]}, "nameGlob": ["web-*"]}).compiled
    matcher = Matcher([*others, mine])
    assert [rule.name for rule in matcher.candidates(audit_record())] == ["mine"]
    assert matcher.candidates(audit_record(verb="list")) == []


def test_w25_a_type_of_ones_own_needs_its_label_and_no_more() -> None:
    """An experiment is labelled as one, and its events say so."""
    emit = {"securityEventType": "MyOwnThing", "severity": "low"}
    with pytest.raises(PermanentError, match="no event type of the catalogue"):
        armed(emit=emit)
    engine = Engine()
    engine.arm(armed(labels={"ugallu.io/type-experimental": "true"}, emit=emit))
    (finding,) = engine.inspect(audit_record())
    assert finding.experimental


def test_w3_every_replica_takes_in_events() -> None:
    """A leader among readers would leave the other API servers' logs unread."""
    assert AuditDetection.placement is Ingest.placement is Placement.EVERY_REPLICA


HERE = "plugins/ugallu_audit_detection"
SIGMA = f"{HERE}/sigma/test_native.py"
FOLLOW, WEBHOOK = "ugallu/sources/test_audit_follow.py", "ugallu/sources/test_audit_webhook.py"
EMIT, HUB, WEAK = "ugallu/emit/test_weak_points.py", "ugallu/bus/test_hub.py", f"{HERE}/test_weak_points.py"

ROWS: dict[str, list[tuple[str, str]]] = {
    # a client CA that is not enforced
    "w1": [(WEBHOOK, "test_certificate_token_or_both"), (WEBHOOK, "test_anonymous_only_when_told_so")],
    # JSON Patch is no event
    "w2": [(SIGMA, "test_a_json_patch_is_seen"),
           (SIGMA, "test_whatever_form_a_json_patch_takes_it_is_seen_by_what_it_writes")],
    # one reader of many logs
    "w3": [(WEAK, "test_w3_every_replica_takes_in_events"), (f"{HERE}/test_webhook.py", "test_replicas_behind_one_service")],
    "w4": [(FOLLOW, "test_unterminated_tail")],
    "w5": [(FOLLOW, "test_a_huge_line_arrives_slowly")],
    # files between two looks
    "w6": [(FOLLOW, "test_rotation"), (FOLLOW, "test_several_rotations_between_two_looks"), (FOLLOW, "test_any_interleaving")],
    # no checkpoint
    "w7": [(FOLLOW, "test_rotations_while_down"), (FOLLOW, "test_the_beginning_survives_a_crash")],
    "w8": [(FOLLOW, "test_copytruncate"), (FOLLOW, "test_any_interleaving_with_copytruncate")],
    # half a request accepted
    "w9": [(WEBHOOK, "test_nothing_is_acknowledged_before_the_disk_has_it"),
           ("ugallu/sources/test_spool.py", "test_a_full_spool_takes_all_or_nothing")],
    # a request too large is lost
    "w10": [(WEBHOOK, "test_over_the_limit_is_413_and_what_is_complete_is_kept")],
    "w11": [(SIGMA, "test_two_wildcards_see_every_element")],
    "w12": [(SIGMA, "test_numbers_are_decimal_text")],
    "w13": [(WEAK, "test_w13_rules_see_all_of_an_event"), (WEAK, "test_w13_what_no_single_event_shows_can_be_asked_too")],
    "w14": [(WEAK, "test_w14_exclusions_are_as_many_as_life_needs")],
    "w15": [(WEAK, "test_w15_a_rule_that_is_looked_at_again_gets_no_fresh_bucket")],
    "w16": [(WEAK, "test_w16_and_w17_counts_survive_a_restart_and_a_new_version_in_flight"),
            (f"{HERE}/test_rules.py", "test_a_restart_does_not_write_zeros")],
    "w17": [(WEAK, "test_w16_and_w17_counts_survive_a_restart_and_a_new_version_in_flight")],
    "w18": [(WEAK, "test_w18_a_bad_edit_is_an_error_and_no_removal"),
            (f"{HERE}/test_rules.py", "test_a_bad_edit_keeps_the_last_good_version")],
    # an open bus that carries Secrets
    "w19": [(HUB, "test_what_cannot_be_served_safely_is_not_served"), ("ugallu/bus/test_events.py", "test_no_secret_leaves")],
    # no rules
    "w20": [(f"{HERE}/test_pack.py", "test_a_rule_arms_and_passes_its_own_tests"),
            (f"{HERE}/test_pack.py", "test_every_type_of_the_pack_is_spoken_of")],
    # manifests that cannot work
    "w21": [("ugallu/manifests/test_roles.py", "test_audit_detection_has_two_roads"), (FOLLOW, "test_not_mounted_yet")],
    "w22": [(WEBHOOK, "test_certificate_and_token_are_replaced_live")],
    "w23": [(WEBHOOK, "test_stopping_answers_what_has_begun")],
    "w24": [(WEAK, "test_w24_an_event_meets_the_rules_about_it_and_no_others")],
    "w25": [(WEAK, "test_w25_a_type_of_ones_own_needs_its_label_and_no_more")],
    # The worst of all sheets, by rank.
    "rank 1": [(EMIT, "test_e2_two_rules_on_one_request"), (EMIT, "test_w4_same_minute_different_decoy_or_actor")],
    "rank 2": [(EMIT, "test_w2_a_client_cannot_hide_behind_an_id"), (WEBHOOK, "test_an_audit_id_hides_nothing")],
    "rank 3": [(SIGMA, "test_a_json_patch_is_seen"),
               (f"{HERE}/test_subjects.py", "test_a_json_patch_is_a_list_and_still_tells")],
    "rank 4": [(WEBHOOK, "test_certificate_token_or_both"), (HUB, "test_what_cannot_be_served_safely_is_not_served")],
    "rank 5": [(EMIT, "test_w3_subjects_without_a_name"),
               (f"{HERE}/test_subjects.py", "test_names_fall_back_step_by_step"),
               (f"{HERE}/test_subjects.py", "test_a_request_outside_the_api_is_an_endpoint")],
    "rank 6": [(WEAK, "test_w3_every_replica_takes_in_events")],
    "rank 7": [(EMIT, "test_w5_submitting_never_waits_for_the_cluster"), (FOLLOW, "test_slow_subscribers")],
    "rank 11": [(SIGMA, "test_two_wildcards_see_every_element")],
}  # fmt: skip
"""Each row of what was wrong with audit-detection, and the tests that it is not so here."""
NOT_HERE = {"rank 8": "tenant-escape", "rank 9": "honeypot", "rank 10": "resolver", "rank 12": "webhook-auditor"}
"""Rows about operators that this installation does not have."""


def test_every_row_is_spoken_for() -> None:
    """W1 to W25 and the twelve worst: by a test, or by an operator that is not there yet."""
    assert ROWS.keys() | NOT_HERE.keys() == {f"w{n}" for n in range(1, 26)} | {f"rank {n}" for n in range(1, 13)}
    assert {each.name for each in entry_points(group="ugallu.operators")}.isdisjoint(NOT_HERE.values())


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_tests(row: str) -> None:
    """What the table names is there, under that name."""
    for file, name in ROWS[row]:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), (file, name)
