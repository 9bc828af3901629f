"""The native grammar, case by case: what each condition asks, and what a rule author is told when it is wrong."""

import json
from typing import Any

import msgspec
import pytest

from ugallu.sdk import AuditObject, AuditRecord, SigmaEmit, SigmaMatch, SigmaRuleSpec, decode_strict
from ugallu_audit_detection.sigma.budget import Budget
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.errors import Reason, RuleError
from ugallu_audit_detection.sigma.match import Matcher
from ugallu_audit_detection.sigma.native import match_expr
from ugallu_audit_detection.sigma.objects import MAX_NODES, MAX_STEPS, projected
from ugallu_audit_detection.sigma.pattern import any_regex
from ugallu_audit_detection.sigma.view import MAX_CALLERS, Callers, RecordView

EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]

MASTERS_REQUEST = (
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHbU1Gb0NBUUF3SnpFTU1Bb0dBMVVFQXd3RFltOWlNUmN3RlFZ"
    "RFZRUUtEQTV6ZVhOMFpXMDZiV0Z6ZEdWeQpjekFxTUFVR0F5dGxjQU1oQUVnSFdsbCtjaG9WYmk0SG1kNWN3TVV5VGNibjZ2SE4x"
    "R0pRaG83Rk1oWGRvQUF3CkJRWURLMlZ3QTBFQWFGUnJocms1dkVqL3I2Y2U2NTdoTWpQMkJoOXJiVVJUVkxoNk52Mk56dmMwT09R"
    "SHZCYUMKMDBmSkpQTVBIMmdaSjZQcFBTbXR6TGorYVVEVFhoWXBBQT09Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0t"
    "LQo="
)
"""A request for bob of system:masters."""


def rule(match: dict[str, Any], name: str = "r") -> CompiledRule:
    return compile_rule(name, SigmaRuleSpec(match=decode_strict(SigmaMatch, match), emit=EMIT))


def record(**event: Any) -> AuditRecord:
    return msgspec.json.decode(json.dumps(event), type=AuditRecord)


def hits(match: dict[str, Any], **event: Any) -> bool:
    one = rule(match)
    found = one.matches(record(**event))
    assert bool(Matcher([one]).match(record(**event))) is found
    return found


def body(pattern: str, value: Any, path: str = "$.v", **extra: Any) -> bool:
    return hits({"requestObjectGlob": [{"jsonPath": path, "patterns": [pattern], **extra}]}, requestObject={"v": value})


def test_two_wildcards_see_every_element() -> None:
    """W11: a capability of the last container is seen, however many lists come before it."""
    spec = {"containers": [{"add": ["A", "B", "C"]}, {"add": ["D", "E", "F"]}, {"add": ["G", "SYS_ADMIN"]}]}
    asked = {"requestObjectGlob": [{"jsonPath": "$.containers[*].add[*]", "patterns": ["SYS_ADMIN"]}]}
    assert hits(asked, requestObject=spec)


@pytest.mark.parametrize(
    ("written", "text"),
    [("1000000", "1000000"), ("1e6", "1000000"), ("1000690000", "1000690000"), ("1.0", "1"), ("0.5", "0.5"),
     ("true", "true"), ("-0", "0"), ('{"b": 1, "a": [2, null]}', '{"a":*2,null],"b":1}')],
)  # fmt: skip
def test_numbers_are_decimal_text(written: str, text: str) -> None:
    """W12: a user id of seven digits matches its decimal pattern; objects are compact JSON with sorted keys."""
    line = '{"verb":"create","requestObject":{"v":' + written + "}}"
    asked = rule({"requestObjectGlob": [{"jsonPath": "$.v", "patterns": [text]}]})
    assert asked.matches(msgspec.json.decode(line, type=AuditRecord))


def test_a_json_patch_is_seen() -> None:
    """W2: the array of a `--type=json` patch is a body like any other, and the object it writes can be asked for."""
    patch = [{"op": "replace", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce", "value": "privileged"}]
    label = "$.metadata.labels['pod-security.kubernetes.io/enforce']"
    event = {"verb": "patch", "requestObject": patch, "objectRef": {"resource": "namespaces"}}
    assert hits({"objectGlob": [{"jsonPath": label, "patterns": ["privileged"]}]}, **event)
    assert hits({"requestObjectGlob": [{"jsonPath": "$[*].value", "patterns": ["privileged"]}]}, **event)
    removed = {**event, "requestObject": [{"op": "remove", "path": patch[0]["path"]}]}
    assert hits({"fieldAbsent": [label]}, **removed)
    assert not hits({"fieldAbsent": ["$.metadata.annotations.a"]}, **removed), "a patch does not say what it leaves"


@pytest.mark.parametrize(
    "cover",
    [
        [{"op": "add", "path": "/spec/containers/0", "value": {"image": "good"}}],
        [{"op": "remove", "path": "/spec/containers/1"}],
        [{"op": "remove", "path": "/spec/containers/0"}, {"op": "remove", "path": "/spec/containers/0"}],
        [{"op": "test", "path": "/spec/containers/0/image", "value": "good"}],
        [{"op": "copy", "from": "/spec/containers/0", "path": "/spec/containers/2"}],
        [{"op": "nonsense"}, "nonsense", None],
    ],
)
def test_a_patch_cannot_hide_an_element_behind_a_later_operation(cover: list[Any]) -> None:
    """What was written into an array stays visible, wherever later operations move it."""
    for path in ("/spec/containers/0", "/spec/containers/-"):
        patch = [{"op": "add", "path": path, "value": {"image": "evil"}}, *cover]
        asked = {"objectGlob": [{"jsonPath": "$ctr[*].image", "patterns": ["evil"]}]}
        assert hits(asked, verb="patch", requestObject=patch, objectRef={"resource": "pods"})


def test_a_large_patch_takes_no_time() -> None:
    """Ten thousand operations on one map cost what they weigh."""
    patch = [{"op": "add", "path": f"/data/k{i}", "value": "x"} for i in range(10_000)]
    patch += [{"op": "add", "path": f"/list/{i}", "value": "x"} for i in range(10_000)]
    patch += [{"op": "add", "path": "/list/999999999/x", "value": "last"}]
    asked = {"objectGlob": [{"jsonPath": "$.list[*].x", "patterns": ["last"]}]}
    assert hits(asked, verb="patch", requestObject=patch)


ENFORCE = "pod-security.kubernetes.io/enforce"
LABEL = f"/metadata/labels/{ENFORCE.replace('/', '~1')}"


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "add", "path": LABEL, "value": "privileged"}],
        [{"op": "add", "path": "/metadata/labels", "value": {ENFORCE: "privileged"}}],
        [{"op": "replace", "path": "/metadata", "value": {"labels": {ENFORCE: "privileged"}}}],
        [{"op": "replace", "path": "", "value": {"metadata": {"labels": {ENFORCE: "privileged"}}}}],
        [{"op": "add", "path": f"ignored{LABEL}", "value": "privileged"}],
        [{"op": "add", "path": "/metadata/labels/0", "value": "x"}, {"op": "add", "path": LABEL, "value": "privileged"}],
        [{"op": "add", "path": "/metadata/annotations/a", "value": "privileged"},
         {"op": "copy", "from": "/metadata/annotations/a", "path": LABEL}],
        [{"op": "add", "path": "/metadata/annotations/a", "value": "privileged"},
         {"op": "move", "from": "/metadata/annotations/a", "path": LABEL}],
        [{"op": "add", "path": "/metadata/annotations/a", "value": [0, "privileged"]},
         {"op": "copy", "from": "/metadata/annotations/a/-1", "path": LABEL}],
    ],
)  # fmt: skip
def test_whatever_form_a_json_patch_takes_it_is_seen_by_what_it_writes(patch: list[Any]) -> None:
    """A whole subtree, a key that looks like an index, a copy, a pointer whose head the API server ignores."""
    event = {"verb": "patch", "requestObject": patch, "objectRef": {"resource": "namespaces"}}
    for asked in ("objectGlob", "requestObjectGlob"):
        assert hits({asked: [{"jsonPath": f"$.metadata.labels['{ENFORCE}']", "patterns": ["privileged"]}]}, **event)
    assert not hits({"requestObjectGlob": [{"jsonPath": "$.metadata.labels.other", "patterns": ["*"]}]}, **event)


@pytest.mark.parametrize("token", ["0", "00", "+0", "-1", "-"])
def test_every_spelling_of_an_index_is_an_element(token: str) -> None:
    """The API server reads indexes with a sign, and counts those below zero from the end."""
    patch = [{"op": "add", "path": f"/spec/containers/{token}/securityContext/privileged", "value": True}]
    event = {"verb": "patch", "requestObject": patch, "objectRef": {"resource": "pods"}}
    for asked in ("objectGlob", "requestObjectGlob"):
        assert hits({asked: [{"jsonPath": "$ctr[*].securityContext.privileged", "patterns": ["true"]}]}, **event)


def test_a_merge_patch_is_no_json_patch() -> None:
    """A list that is sent with another verb is a list, and keys are looked for with their quotes only in objects."""
    asked = {"requestObjectGlob": [{"jsonPath": "$.a", "patterns": ["x"]}]}
    patch = [{"op": "add", "path": "/a", "value": "x"}]
    assert hits(asked, verb="patch", requestObject=patch)
    assert not hits(asked, verb="create", requestObject=patch)
    assert hits(asked, verb="patch", requestObject={"a": "x"})
    spaced = b'{"verb":"patch","requestObject": \n[{"op":"add","path":"/a","value":"x"}]}'
    assert rule(asked).matches(msgspec.json.decode(spaced, type=AuditRecord))


def test_copies_in_a_patch_neither_loop_nor_explode_nor_share() -> None:
    """A copy is a copy, and all of them together take no more than the API server allows."""
    loop = [{"op": "add", "path": "/a", "value": 1}, {"op": "copy", "from": "", "path": "/a"}]
    assert projected(loop) == {"a": {"a": 1}}
    shared = [{"op": "add", "path": "/a/x", "value": 1}, {"op": "copy", "from": "/a", "path": "/b"}]
    assert projected([*shared, {"op": "remove", "path": "/b/x"}]) == {"a": {"x": 1}, "b": {"x": None}}
    doubling = [{"op": "add", "path": "/k0/x", "value": "x"}]
    for i in range(40):
        doubling += [{"op": "copy", "from": f"/k{i}", "path": f"/k{i + 1}/{side}"} for side in "lr"]
    late = [{"op": "add", "path": "/a/b", "value": True}, {"op": "copy", "from": "/a", "path": "/late"}]
    found = projected([*doubling, *late])
    assert len(json.dumps(found)) < 20 * MAX_NODES
    assert found["late"] == {"b": True}, "a small copy is made, whatever came before"
    sent = [{"op": "add", "path": "/a", "value": ["x" * 1000] * 1000}]
    copied = projected(sent + [{"op": "copy", "from": "/a", "path": f"/b{i}"} for i in range(100)])
    assert 1 < len(copied) < 6


def test_pointers_of_a_patch_cost_what_they_weigh() -> None:
    """Steps beyond those of any patch that the API server takes are not taken."""
    far = [{"op": "add", "path": "/a" * 64, "value": 1}] * (MAX_STEPS // 64 - 1)
    seen = {"op": "add", "path": "/seen", "value": 1}
    assert projected([*far, {"op": "test", "path": "/a" * 64, "value": 1}, seen])["seen"] == 1
    assert "seen" not in projected([*far, *far[:5], seen])


def test_the_stored_object_counts_before_the_sent_one() -> None:
    """A response that is the object itself is the effective object; a Status or a list is not."""
    asked = {"objectGlob": [{"jsonPath": "$.v", "patterns": ["sent"]}]}
    for response, expected in (
        ({"kind": "Pod", "v": "stored"}, False),
        ({"kind": "Status", "v": "stored"}, True),
        ({"kind": "PodList", "items": []}, True),
        ({}, True),
    ):
        assert hits(asked, verb="create", requestObject={"v": "sent"}, responseObject=response) is expected


@pytest.mark.parametrize(
    ("group", "resource", "path"),
    [("", "pods", []), ("apps", "deployments", ["spec", "template"]), ("batch", "jobs", ["spec", "template"]),
     ("batch", "cronjobs", ["spec", "jobTemplate", "spec", "template"]), ("", "podtemplates", ["template"])],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["containers", "initContainers", "ephemeralContainers"])
def test_containers_are_found_in_every_kind(group: str, resource: str, path: list[str], kind: str) -> None:
    """`$ctr[*]` is all containers of the Pod spec, wherever the kind keeps it."""
    found: dict[str, Any] = {"spec": {kind: [{"image": "a"}, {"image": "evil"}]}}
    for step in reversed(path):
        found = {step: found}
    event = {"verb": "create", "objectRef": {"resource": resource, "apiGroup": group}, "requestObject": found}
    assert hits({"objectGlob": [{"jsonPath": "$ctr[*].image", "patterns": ["evil"]}]}, **event)
    assert hits({"requestObjectGlob": [{"jsonPath": "$ctr[1].image", "patterns": ["evil"]}]}, **event)
    event["objectRef"] = {"resource": resource, "apiGroup": "example.com"}
    assert not hits({"objectGlob": [{"jsonPath": "$ctr[*].image", "patterns": ["evil"]}]}, **event)


def test_conditions_of_one_element() -> None:
    """`sameElement` wants all conditions in one element; two globs take any two elements."""
    rules = [{"verbs": ["*"], "resources": ["pods"]}, {"verbs": ["get"], "resources": ["*"]}]
    conditions = [{"jsonPath": "$.verbs[*]", "re": [r"^\*$"]}, {"jsonPath": "$.resources[*]", "re": [r"^\*$"]}]
    asked = {"sameElement": [{"path": "$.rules", "all": conditions}]}
    assert not hits(asked, verb="create", requestObject={"rules": rules})
    assert hits(asked, verb="create", requestObject={"rules": [*rules, {"verbs": ["*"], "resources": ["*"]}]})


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [("?", "é", False), ("??", "é", True), ("a*b*c", "abc", True), ("a*b*c", "ab", False), ("ab*ba", "aba", False),
     ("*", "", True), ("", "", True), ("[a]", "a", False), ("a\\*", "a*", False), ("*?", "é", True), ("A", "a", False)],
)  # fmt: skip
def test_globs(pattern: str, value: str, expected: bool) -> None:
    """`*` is any run, `?` one byte, nothing else is special, both ends are anchored, case counts."""
    assert body(pattern, value) is expected


def test_value_operators() -> None:
    """Bounds hold on the value that hits; case can be ignored; addresses are compared as addresses."""
    assert body("AB*", "abc", ignoreCase=True)
    one = {"requestObjectGlob": [{"jsonPath": "$.v[*]", "gt": 10, "lt": 20}]}
    assert hits(one, requestObject={"v": [5, 15]})
    assert hits(one, requestObject={"v": ["15"]})
    assert not hits(one, requestObject={"v": [5, 25, True, "x"]})
    assert hits(
        {"requestObjectGlob": [{"jsonPath": "$.v", "cidr": ["10.0.0.0/8"]}]}, requestObject={"v": "::ffff:10.1.1.1"}
    )
    assert not hits({"requestObjectGlob": [{"jsonPath": "$.v", "patterns": []}]}, requestObject={"v": "x"})


def test_an_empty_subresource_also_means_no_object() -> None:
    """As in the original, `[""]` matches a request without any object reference."""
    assert hits({"subresource": [""]}, verb="get", requestURI="/version")
    assert not hits({"objectRef": {}}, verb="get", requestURI="/version")
    assert not hits({"objectRef": {"subresource": [""]}}, verb="get", requestURI="/version")


def test_the_last_hop_is_the_only_trusted_address() -> None:
    """A forged X-Forwarded-For does not count unless the rule says `any`."""
    event = {"sourceIPs": ["10.0.0.1", "8.8.8.8"]}
    assert not hits({"sourceIPs": ["10.0.0.0/8"]}, **event)
    assert hits({"sourceIPs": ["10.0.0.0/8"], "sourceIPScope": "any"}, **event)


def test_a_dry_run_cannot_be_pretended() -> None:
    """The API server ignores the query of a delete that has a body, so the body decides."""
    real = {"dryRun": False}
    pretended = {"verb": "delete", "requestURI": "/x?dryRun=All", "level": "Request"}
    assert hits(real, **pretended, requestObject={"kind": "DeleteOptions"})
    assert not hits(real, **pretended)
    assert hits(real, **{**pretended, "level": "Metadata"}), "the body is not in the record"
    assert not hits(real, verb="create", requestURI="/x?%64ryRun=%41ll")
    assert hits(real, verb="create", requestURI="/x?notdryRun=All")


def test_a_body_that_was_cut_off_is_unknown() -> None:
    """Neither a condition on it nor its negation holds; what else the rule asks still counts."""
    cut = {"verb": "create", "annotations": {"audit.k8s.io/truncated": "true"}}
    glob = {"requestObjectGlob": [{"jsonPath": "$.a", "patterns": ["*"]}]}
    assert not hits(glob, **cut)
    assert not hits({"not": glob}, **cut)
    assert hits({"not": {**glob, "verb": ["get"]}}, **cut)
    assert not hits({"fieldAbsent": ["$.a"]}, **cut)
    assert hits({"not": glob}, verb="create")


def test_one_malformed_part_hides_nothing_else() -> None:
    """A user of the wrong shape is no user; the rest of the record is matched."""
    assert hits({"verb": ["create"]}, verb="create", user=5, annotations=[], responseStatus="x", sourceIPs={})
    assert not hits({"user": {"groups": ["a"]}}, user={"groups": "a"})


@pytest.mark.parametrize(
    "value",
    ['"\\ud800 evil"', '[["evil"], 1e999]', '{"deep": ' + "[" * 5000 + "]" * 5000 + ', "v": "evil"}', '["evil", ' + "9" * 5000 + "]"],
)  # fmt: skip
def test_a_body_cannot_be_made_unreadable(value: str) -> None:
    """What one decoder refuses and the API server takes does not blind the rules."""
    line = b'{"verb":"patch","requestObject":' + value.encode() + b"}"
    raw = msgspec.Raw(line[len(b'{"verb":"patch","requestObject":') : -1])
    seen = AuditRecord(verb="patch", request_object=raw)
    for path in ("$", "$[*]", "$.v"):
        asked = rule({"requestObjectGlob": [{"jsonPath": path, "patterns": ["*evil*"]}]})
        if asked.matches(seen):
            return
    pytest.fail("no path finds it")


@pytest.mark.parametrize(
    ("escaped", "path"), [('{"\\u0069mage":"\\u0065vil"}', "$.image"), ('{"image":"ev\\u0069l"}', "$.image")]
)
def test_escapes_do_not_hide_a_value(escaped: str, path: str) -> None:
    """A body is searched before it is decoded, and spelling a key or value with escapes does not fool the search."""
    seen = AuditRecord(verb="create", request_object=msgspec.Raw(escaped.encode()))
    assert rule({"requestObjectGlob": [{"jsonPath": path, "patterns": ["*evil*"]}]}).matches(seen)


@pytest.mark.parametrize(
    ("match", "reason", "part"),
    [
        ({"requestObjectGlob": [{"jsonPath": "$..x", "patterns": ["a"]}]}, Reason.JSON_PATH, "requestObjectGlob[0].jsonPath"),
        ({"requestObjectGlob": [{"jsonPath": "x", "patterns": ["a"]}]}, Reason.JSON_PATH, "begin"),
        ({"requestObjectGlob": [{"jsonPath": "$[-1]", "patterns": ["a"]}]}, Reason.JSON_PATH, "character 2"),
        ({"requestObjectGlob": [{"jsonPath": '$["a"]', "patterns": ["a"]}]}, Reason.JSON_PATH, "jsonPath"),
        ({"objectGlob": [{"jsonPath": "$ctr.x", "patterns": ["a"]}]}, Reason.JSON_PATH, "$ctr[*]"),
        ({"objectGlob": [{"jsonPath": "$podium", "patterns": ["a"]}]}, Reason.JSON_PATH, "character 5"),
        ({"user": {"usernameGlob": ["*a" * 9]}}, Reason.GLOB_BUDGET, "match.user.usernameGlob[0]"),
        ({"user": {"usernameGlob": ["a" * 513]}}, Reason.GLOB_BUDGET, "513"),
        ({"not": {"nameGlob": ["*" * 9]}}, Reason.GLOB_BUDGET, "match.not.nameGlob[0]"),
        ({"verb": ["replace"]}, Reason.COMPILE_ERROR, "one of connect, create"),
        ({"stage": ["Complete"]}, Reason.COMPILE_ERROR, "ResponseComplete"),
        ({"responseCode": ["4x"]}, Reason.COMPILE_ERROR, "400-499"),
        ({"sourceIPs": ["10.0.0"]}, Reason.COMPILE_ERROR, "no network"),
        ({"requestObjectGlob": [{"jsonPath": "$", "re": ["(?=a)"]}]}, Reason.REGEX, "look-around"),
        ({"requestObjectGlob": [{"jsonPath": "$", "re": ["a)(b"]}]}, Reason.REGEX, "re"),
        ({"requestObjectGlob": [{"jsonPath": "$", "re": ["a" * 513]}]}, Reason.REGEX, "513"),
        ({"sameElement": [{"path": "$.a", "all": []}]}, Reason.COMPILE_ERROR, "asks nothing"),
        ({"anyOf": [{"verb": ["get"]}] * 65}, Reason.COMPILE_ERROR, "at most 64"),
    ],
)  # fmt: skip
def test_a_wrong_rule_says_where_what_and_how(match: dict[str, Any], reason: Reason, part: str) -> None:
    """The error names the rule, the field, the value and the way out, and carries the condition's reason."""
    with pytest.raises(RuleError) as refused:
        rule(match, "my-rule")
    assert refused.value.reason is reason
    assert "SigmaRule my-rule" in str(refused.value)
    assert part in str(refused.value)
    assert refused.value.fix


def test_what_is_known_before_any_event() -> None:
    """A rule that matches everything, one that never can, and what each needs are told at once."""
    assert rule({}).matches_everything
    assert rule({"not": {}}).never_matches
    assert rule({"verb": ["get"], "anyOf": [{"verb": ["list"]}]}).never_matches
    assert rule({"verb": ["get"], "not": {"verb": ["get"]}}).never_matches
    assert not rule({"verb": ["get"]}).matches_everything
    one = rule({"verb": ["create"], "objectRef": {"apiGroup": [""], "resource": ["pods"]}, "stage": ["Panic"],
                "objectGlob": [{"jsonPath": "$", "patterns": ["*"]}]})  # fmt: skip
    assert one.dispatch.verbs == frozenset(["create"])
    assert one.dispatch.resources == frozenset(["pods"])
    assert one.needs.stages == frozenset(["Panic"])
    assert one.needs.level == "Request"
    assert any("verb is create" in sentence for sentence in one.explain())


def test_disabled_rules_are_left_out_and_order_is_kept() -> None:
    """A matcher answers in the order of its rules, without those that are not enabled."""
    off = compile_rule("off", SigmaRuleSpec(enabled=False, emit=EMIT))
    matcher = Matcher([rule({}, "b"), off, rule({"verb": ["get"]}, "a")])
    seen = record(verb="get")
    assert [each.name for each in matcher.match(seen)] == ["b", "a"]
    assert off.matches(seen)
    assert [(i, len(found)) for i, found in matcher.match_batch([record(verb="x"), seen])] == [(0, 1), (1, 2)]


def test_what_is_settled_for_a_caller_is_not_used_for_another() -> None:
    """One user with and without impersonation, and impersonating two others, in any order and again and again."""
    matcher = Matcher([rule({"impersonatedUser": {"usernameGlob": ["b*"]}}), rule({"user": {"usernameGlob": ["a*"]}})])
    plain = record(verb="get", user={"username": "a"})
    bob, eve = (
        record(verb="get", user={"username": "a"}, impersonatedUser={"username": name}) for name in ("bob", "eve")
    )
    other = record(verb="get", user={"username": "x"})
    for seen, count in [(plain, 1), (bob, 2), (eve, 1), (other, 0)] * 4:
        assert len(matcher.match(seen)) == count


def test_a_rule_that_takes_too_long_is_told() -> None:
    """The budget names the rule that spent it, and only that one."""
    ticks = iter(range(1000))
    budget = Budget(lambda: float(next(ticks)), limit=1.5)
    slow = rule({"userAgentGlob": ["a*"]}, "slow")
    matcher = Matcher([slow, rule({"verb": ["list"]}, "other")], budget=budget)
    assert not matcher.match(record(verb="get"))
    assert not budget.overruns
    budget.limit = 0.5
    assert [each.name for each in matcher.match(record(verb="get", userAgent="a"))] == ["slow"]
    assert {name: each.events for name, each in budget.overruns.items()} == {"slow": 1}


def test_a_busy_machine_makes_no_rule_slow() -> None:
    """What the first clock says is looked into with one that stands still while others run."""
    busy = iter(range(1000))
    budget = Budget(lambda: float(next(busy)), exact=lambda: 0.0, limit=0.5)
    matcher = Matcher([rule({"userAgentGlob": ["a*"]}, "innocent")], budget=budget)
    assert matcher.match(record(verb="get", userAgent="a"))
    assert not budget.overruns


def test_a_client_that_invents_resources_and_callers_does_not_fill_memory() -> None:
    """What the matcher remembers is bounded."""
    matcher = Matcher([rule({"user": {"usernameGlob": ["evil*"]}})])
    for i in range(40_000):
        seen = AuditRecord(verb="get", stage=f"s{i}", user=msgspec.Raw(b'{"username":"u%d"}' % i))
        assert not matcher.match(seen)
    assert len(matcher._cases) <= 16384
    assert len(matcher._requests) <= 4096
    assert matcher.match(AuditRecord(verb="get", user=msgspec.Raw(b'{"username":"evil"}')))


@pytest.mark.parametrize(
    ("match", "part"),
    [
        ({"user": {"usernameGlob": ["eve"]}}, {"user": {"username": "eve", "groups": None}}),
        ({"user": {"usernameGlob": ["eve"]}}, {"user": {"username": "eve", "extra": {"a": "b"}, "uid": 7}}),
        ({"user": {"groups": ["g"]}}, {"user": {"username": "eve", "groups": [1, "g", None]}}),
        ({"user": {"extra": {"k": ["v"]}}}, {"user": {"username": "eve", "extra": {"a": 1, "k": ["v", 2]}}}),
        ({"impersonatedUser": {"groups": ["system:masters"]}},
         {"impersonatedUser": {"username": 1, "groups": ["system:masters"]}}),
        ({"responseCode": ["200"]}, {"responseStatus": {"code": 200, "message": None, "reason": 1}}),
        ({"responseCode": ["200"]}, {"responseStatus": {"code": 200.0, "reason": 1}}),
        ({"responseReason": ["Forbidden"]}, {"responseStatus": {"code": "403", "reason": "Forbidden"}}),
        ({"annotations": {"a": ["b"]}}, {"annotations": {"a": "b", "c": 1, "d": None}}),
        ({"sourceIPs": ["10.0.0.0/8"]}, {"sourceIPs": [None, "10.1.2.3"]}),
    ],
)  # fmt: skip
def test_an_odd_part_costs_nothing_but_itself(match: dict[str, Any], part: dict[str, Any]) -> None:
    """Whoever gets one null into a caller does not become nobody."""
    assert hits(match, verb="get", **part)
    for odd in (None, 7, "x", [], [7]):
        assert not hits(match, verb="get", **{next(iter(part)): odd})


@pytest.mark.parametrize("space", ["+", "%20", "%2520"])
def test_a_space_in_a_uri_is_a_space_however_it_is_sent(space: str) -> None:
    """Clients write `+`, intruders whatever the rule does not expect; what is encoded twice is no space to anybody."""
    asked = {"requestURIGlob": ["*command=cat /etc/shadow*"]}
    uri = f"/api/v1/namespaces/a/pods/b/exec?command=cat{space}%2Fetc%2Fshadow"
    assert hits(asked, verb="get", requestURI=uri) is (space != "%2520")


@pytest.mark.parametrize(
    ("match", "line"),
    [
        ({"objectGlob": [{"jsonPath": "$.a", "patterns": ["x*y"]}]}, b'"requestObject":{"a":"x\xffy"}'),
        ({"objectGlob": [{"jsonPath": "$.b", "patterns": ["evil"]}]}, b'"requestObject":{"a":"\xff","b":"evil"}'),
        ({"requestObjectGlob": [{"jsonPath": "$.b", "patterns": ["evil"]}]}, b'"requestObject":{"a":"\xff","b":"evil"}'),
        ({"requestObjectGlob": [{"jsonPath": "$.a", "patterns": ["x*y"]}]}, b'"requestObject":{"a":"x\xc3y"}'),
        ({"requestObjectGlob": [{"jsonPath": "$.b", "patterns": ["evil"]}]},
         b'"requestObject":[{"op":"add","path":"/a","value":"\xff"},{"op":"add","path":"/b","value":"evil"}]'),
        ({"responseObjectGlob": [{"jsonPath": "$.a", "patterns": ["x*y"]}]}, b'"responseObject":{"a":"x\xffy"}'),
        ({"user": {"usernameGlob": ["eve*"]}}, b'"user":{"username":"eve\xff"}'),
        ({"impersonatedUser": {"groups": ["g"]}}, b'"impersonatedUser":{"username":"eve\xff","groups":["g"]}'),
        ({"responseCode": ["403"]}, b'"responseStatus":{"code":403,"message":"\xff"}'),
        ({"annotations": {"a": ["b"]}}, b'"annotations":{"c":"\xff","a":"b"}'),
        ({"sourceIPs": ["10.0.0.0/8"]}, b'"sourceIPs":["\xff","10.0.0.1"]'),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_hide_nothing(match: dict[str, Any], line: bytes) -> None:
    """The API server takes them and writes U+FFFD into the object; in the log of a patch they stand as they came."""
    one = rule(match)
    record = msgspec.json.decode(b'{"verb":"patch",' + line + b"}", type=AuditRecord)
    assert one.matches(record)
    assert len(Matcher([one]).match(record)) == 1


def test_several_expressions_are_one_search() -> None:
    """Each keeps its own anchors and flags, alone or together."""
    sources = ["^a", "(?i)b$", "c|^d"]
    for text in ("ax", "xB", "xa", "bx", "xcx", "dx", "xd", "\ud800a", ""):
        together = any_regex(sources)(text)
        assert together == any(any_regex([source])(text) for source in sources)
    assert any_regex(["^A", "B$"], flags="i")("xb")


def test_values_that_no_rule_names_are_one_to_the_matcher() -> None:
    """Each of a million invented resources meets what is known of the first; those that rules name are told apart."""
    rules = [
        rule({"objectRef": {"resource": ["pods"]}}, "pods"),
        rule({"not": {"objectRef": {"resource": ["pods"]}}, "verb": ["get"]}, "others"),
        rule({"subresource": [""]}, "whole"),
    ]
    matcher = Matcher(rules)
    for i in range(100):
        ref = AuditObject(resource=f"r{i}", subresource="" if i % 2 else f"s{i}")
        seen = AuditRecord(verb="get", object_ref=ref, user=msgspec.Raw(b'{"username":"u%d"}' % i))
        assert [each.name for each in matcher.match(seen)] == (["others", "whole"] if i % 2 else ["others"])
    assert len(matcher._requests) == 2
    for resource, expected in (("pods", ["pods", "whole"]), ("Pods", ["others", "whole"]), ("", ["others", "whole"])):
        for _ in range(3):
            seen = AuditRecord(verb="get", object_ref=AuditObject(resource=resource))
            assert [each.name for each in matcher.match(seen)] == expected


def test_a_pattern_on_the_resource_sees_every_value() -> None:
    """Where a rule has a pattern, values are not taken together."""
    text = {"title": "t", "logsource": {"product": "kubernetes", "service": "audit"},
            "detection": {"s": {"objectRef.resource|startswith": "pod"}, "condition": "s"}}  # fmt: skip
    matcher = Matcher([compile_rule("r", SigmaRuleSpec(sigma=json.dumps(text), emit=EMIT))])
    for resource, expected in (("pods", 1), ("secrets", 0), ("podtemplates", 1), ("nodes", 0)):
        for _ in range(3):
            assert len(matcher.match(AuditRecord(object_ref=AuditObject(resource=resource)))) == expected


def test_long_names_and_callers_are_not_remembered() -> None:
    """A URL may be a megabyte long: ten thousand of them must not stay in memory."""
    matcher = Matcher([rule({"user": {"usernameGlob": ["u*"]}})])
    long = "x" * 100_000
    for name, who in ((long, "u"), ("pods", f"u{long}")):
        user = msgspec.Raw(json.dumps({"username": who}).encode())
        seen = AuditRecord(verb="get", object_ref=AuditObject(resource=name), user=user)
        assert [len(matcher.match(seen)) for _ in range(3)] == [1, 1, 1]
    assert sum(len(part) for key in matcher._cases for part in key) < 1000
    assert sum(map(len, matcher.callers.known)) < 1000


def test_decoding_a_large_body_is_no_expense_of_a_rule() -> None:
    """Else whoever sends large bodies could make every rule look slow."""
    spent = 0.0

    def clock() -> float:
        nonlocal spent
        spent += 1.0
        return spent

    budget = Budget(clock, limit=1.5)
    asked = rule({"requestObjectGlob": [{"jsonPath": "$.a", "patterns": ["x"]}]}, "a")

    def decoding(view: RecordView) -> bool:
        nonlocal spent
        if "request_object" not in view.__dict__:
            spent += 100.0
        return bool(view.request_object == {"a": "x"})

    assert budget.spent([(asked, decoding)], RecordView(record(requestObject={"a": "x"}))) == [asked]
    assert not budget.overruns


def test_callers_are_remembered_by_their_bytes() -> None:
    """Ten thousand of an ordinary cluster stay; a flood of invented ones takes no more room than that."""
    callers = Callers()

    def meet(count: int, groups: list[str]) -> None:
        for number in range(count):
            raw = msgspec.Raw(json.dumps({"username": f"u{number}", "groups": groups}).encode())
            assert RecordView(AuditRecord(user=raw), callers).user.username == f"u{number}"

    meet(10_000, ["x" * 200])
    assert len(callers.known) == 10_000
    meet(3_000, ["y" * 2000])
    assert sum(map(len, callers.known)) <= MAX_CALLERS


@pytest.mark.parametrize(
    "match", [{"sourceIPs": ["10.0.0.1/8"]}, {"requestObjectGlob": [{"jsonPath": "$.v", "cidr": ["fd00::1/8"]}]}]
)
def test_an_address_in_a_network_is_no_network(match: dict[str, Any]) -> None:
    """It would silently mean sixteen million addresses; the error says both that it may mean."""
    with pytest.raises(RuleError, match=r"for the network, .* for the address"):
        match_expr(decode_strict(SigmaMatch, match, where="match"))


@pytest.mark.parametrize(
    ("sent", "plain"),
    [("/./", "/"), ("//etc/kubernetes", "/etc/kubernetes"), ("/etc/./shadow", "/etc/shadow"), ("/a/../etc/", "/etc"),
     ("/../..", "/"), ("/", "/"), ("/srv/..data", "/srv/..data"), ("C:\\", "C:\\")],
)  # fmt: skip
def test_a_path_is_compared_as_the_kernel_reads_it(sent: str, plain: str) -> None:
    """Another spelling of a path is the same path."""
    assert body(plain, sent, asPath=True)
    assert (sent == plain) is body(plain, sent)


@pytest.mark.parametrize(
    ("uri", "hit"),
    [("/x?labelSelector=owner%3Dhelm", True), ("/x?a=1&labelSelector=owner=helm", True),
     ("/x?x=labelSelector%3Downer%3Dhelm", False), ("/x?labelSelector=&labelSelector=owner=helm", False),
     ("/x?labelSelector=a;&labelSelector=owner%3Dhelm", True), ("/labelSelector=owner=helm", False)],
)  # fmt: skip
def test_a_parameter_is_what_the_api_server_takes(uri: str, hit: bool) -> None:
    """Of one that is given twice the first value counts, and a broken one is passed over."""
    assert hits({"query": {"labelSelector": ["owner=helm"]}}, requestURI=uri) is hit


def test_a_path_is_asked_without_its_query() -> None:
    """What stands behind the question mark, or is spelt another way, is not the path."""
    asked = {"requestPathRe": ["^/api/v1/nodes/[^/]+/proxy/metrics(/|$)"]}
    assert hits(asked, requestURI="/api/v1/nodes/n1/proxy//metrics/cadvisor?x=y")
    assert not hits(asked, requestURI="/api/v1/nodes/n1/proxy/pods?a=/proxy/metrics")
    assert not hits(asked, requestURI="/api/v1/nodes/n1/proxy/metrics/%2e%2e/pods")


def test_a_body_that_was_cut_off_is_not_known() -> None:
    """An event without a body can be asked for, whatever its level says."""
    cut = {"audit.k8s.io/truncated": "true"}
    assert hits({"bodyKnown": False}, level="RequestResponse", annotations=cut)
    assert not hits({"bodyKnown": False}, level="Request", requestObject={})
    assert hits({"bodyKnown": True}, level="RequestResponse", responseObject={})


def test_a_certificate_request_is_read() -> None:
    """Whose name and groups a certificate would carry is told; what cannot be read is not taken for harmless."""
    group = {"objectGlob": [{"jsonPath": "$csr.organizations[*]", "patterns": ["system:masters"]}]}
    unreadable = {"objectGlob": [{"jsonPath": "$csr.unreadable", "patterns": ["true"]}]}
    for request, of_masters, odd in ((MASTERS_REQUEST, True, False), ("", False, False), ("bm9uZQ==", False, True)):
        event = {"verb": "create", "requestObject": {"spec": {"request": request}}}
        assert hits(group, **event) is of_masters
        assert hits(unreadable, **event) is odd
