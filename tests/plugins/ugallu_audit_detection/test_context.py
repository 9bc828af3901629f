"""What stood there before: remembered from the stream, by answers, and unknown where nobody can know."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.sdk import AuditRecord, SigmaEmit, SigmaMatch, SigmaRuleSpec, decode_strict
from ugallu.testing import rules_reference as reference
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import arm, failure
from ugallu_audit_detection.conditions import remarks
from ugallu_audit_detection.context import MAX_OBJECTS, MAX_SUBJECTS, Context
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.levels import Levels
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.sigma.match import Matcher
from ugallu_audit_detection.sigma.view import RecordView

EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]
RBAC = "rbac.authorization.k8s.io"
Event = dict[str, Any]


def rule(match: dict[str, Any]) -> CompiledRule:
    return compile_rule("r", SigmaRuleSpec(match=decode_strict(SigmaMatch, match), emit=EMIT))


def record(event: Event) -> AuditRecord:
    return msgspec.json.decode(json.dumps(event, separators=(",", ":")), type=AuditRecord)


def says(match: dict[str, Any], *events: Event) -> bool:
    """Whether the last event hits, after all others; the reference must say the same."""
    one = rule(match)
    context = Context()
    context.ask([one])
    matcher = Matcher([one], context=context)
    hits = [index for index, _ in matcher.match_batch([record(event) for event in events])]
    last = len(events) - 1 in hits
    assert last is reference.native_matches(match, events[-1], events[:-1])
    return last


def webhooks(policy: str, verb: str = "update", **more: Any) -> Event:
    return {
        "verb": verb,
        "objectRef": {"resource": "validatingwebhookconfigurations", "name": "guard"},
        "responseObject": {"kind": "X", "webhooks": [{"failurePolicy": policy, "clientConfig": {"caBundle": "a"}}]},
        **more,
    }


NO_LONGER_CLOSED = {
    "objectRef": {"resource": ["validatingwebhookconfigurations"]},
    "objectGlob": [{"jsonPath": "$.webhooks[*].failurePolicy", "patterns": ["Ignore"]}],
    "previous": [{"jsonPath": "$.webhooks[*].failurePolicy", "patterns": ["Fail"]}],
}


def test_what_stood_there_before_a_write() -> None:
    """A webhook that failed closed and now fails open, against one that always did."""
    assert says(NO_LONGER_CLOSED, webhooks("Fail", "create"), webhooks("Ignore"))
    assert not says(NO_LONGER_CLOSED, webhooks("Ignore", "create"), webhooks("Ignore"))
    assert not says(NO_LONGER_CLOSED, webhooks("Fail", "create"), webhooks("Ignore"), webhooks("Ignore"))


def test_a_write_that_was_refused_or_pretended_leaves_nothing() -> None:
    """Neither a 403 nor a dry run changes what stands there."""
    refused = webhooks("Fail", responseStatus={"code": 403})
    pretended = webhooks("Fail", requestURI="/x?dryRun=All")
    started = webhooks("Fail", stage="RequestReceived")
    for event in (refused, pretended, started):
        assert not says(NO_LONGER_CLOSED, webhooks("Ignore", "create"), event, webhooks("Ignore"))


@pytest.mark.parametrize(
    "lost",
    [
        [],
        [webhooks("Fail"), webhooks("", responseObject=None)],
        [webhooks("Fail"), webhooks("Fail", "delete")],
    ],
    ids=["never seen", "written without a body", "deleted"],
)
@pytest.mark.parametrize("place", ["inline", "not"])
def test_unknown_neither_holds_nor_fails_unless_the_rule_says(lost: list[Event], place: str) -> None:
    """By itself an unknown past raises nothing, asked for or excluded; `whenUnknown` decides otherwise."""
    asked = {"previous": NO_LONGER_CLOSED["previous"]}
    here = {"objectRef": NO_LONGER_CLOSED["objectRef"]}

    def match(**when: str) -> dict[str, Any]:
        return {**here, **asked, **when} if place == "inline" else {**here, "not": {**asked, **when}}

    events = [*lost, webhooks("Ignore")]
    assert not says(match(), *events)
    assert says(match(whenUnknown="holds"), *events) is (place == "inline")
    assert says(match(whenUnknown="fails"), *events) is (place == "not")


def test_nothing_stood_where_something_is_created() -> None:
    """Known, not unknown; also of an apply that makes the object."""
    guarded = {"objectRef": NO_LONGER_CLOSED["objectRef"], "not": {"previous": NO_LONGER_CLOSED["previous"]}}
    assert says(guarded, webhooks("Ignore", "create"))
    assert says(guarded, webhooks("Ignore", "patch", responseStatus={"code": 201}))
    assert not says(guarded, webhooks("Ignore", "patch", responseStatus={"code": 200}))


def binding(subjects: Sequence[str] | None, verb: str = "update", role: str = "cluster-admin", **more: Any) -> Event:
    body: dict[str, Any] = {"kind": "ClusterRoleBinding", "roleRef": {"kind": "ClusterRole", "name": role}}
    if subjects is not None:
        body["subjects"] = [{"kind": "ServiceAccount", "namespace": "shop", "name": name} for name in subjects]
    return {
        "verb": verb,
        "objectRef": {"resource": "clusterrolebindings", "apiGroup": RBAC, "name": "b"},
        "responseObject": body,
        **more,
    }


def test_a_change_of_subjects_is_told_from_a_change_of_labels() -> None:
    """An update that leaves the subjects alone is none of a rule on grants; one that is unknown can be."""
    moved = {"objectRef": {"resource": ["clusterrolebindings"]}, "changed": ["$.subjects"]}
    assert says(moved, binding(["a"], "create"))
    assert says(moved, binding(["a"], "create"), binding(["a", "b"]))
    assert not says(moved, binding(["a"], "create"), binding(["a"]))
    assert not says(moved, binding(["a"]))
    assert says({**moved, "whenUnknown": "holds"}, binding(["a"]))


def test_a_patch_changes_what_it_writes_and_nothing_else() -> None:
    """At level Request a patch shows only itself: what it does not touch is known to be the same."""
    moved = {"objectRef": {"resource": ["clusterrolebindings"]}, "changed": ["$.subjects"]}
    labels = binding(None, "patch", responseObject=None, requestObject={"metadata": {"labels": {"a": "b"}}})
    subjects = binding(None, "patch", responseObject=None, requestObject={"subjects": []})
    pointer = binding(
        None, "patch", responseObject=None,
        requestObject=[{"op": "add", "path": "/subjects/-", "value": {"kind": "User", "name": "eve"}}],
    )  # fmt: skip
    assert not says(moved, labels)
    assert not says(moved, binding(["a"], "create"), labels)
    assert says(moved, binding(["a"], "create"), subjects)
    assert says(moved, binding(["a"], "create"), labels, pointer)
    assert not says(moved, binding(["a"], "create"), pointer, binding(["a"])), "after such a patch nobody knows"


def pod(privileged: bool, name: str = "web", account: str = "", **more: Any) -> Event:
    spec: dict[str, Any] = {"containers": [{"name": "c", "securityContext": {"privileged": privileged}}]}
    if account:
        spec["serviceAccountName"] = account
    return {
        "verb": "create",
        "objectRef": {"resource": "pods", "namespace": "shop", "name": name},
        "responseObject": {"kind": "Pod", "metadata": {"name": name}, "spec": spec},
        **more,
    }


def execute(name: str = "web") -> Event:
    ref = {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": name}
    return {"verb": "create", "stage": "ResponseStarted", "objectRef": ref}


PRIVILEGED = {
    "objectRef": {"resource": ["pods"], "subresource": ["exec"]},
    "targetPod": [{"jsonPath": "$ctr[*].securityContext.privileged", "patterns": ["true"]}],
}


def test_the_pod_that_somebody_enters() -> None:
    """Known from its creation, also when the server gave it its name."""
    assert says(PRIVILEGED, pod(True), execute())
    assert not says(PRIVILEGED, pod(False), execute())
    assert not says(PRIVILEGED, pod(True), execute("other"))
    generated = pod(True, objectRef={"resource": "pods", "namespace": "shop"})
    assert says(PRIVILEGED, generated, execute())
    ephemeral = {
        **pod(True, verb="patch"),
        "objectRef": {**pod(True)["objectRef"], "subresource": "ephemeralcontainers"},
    }
    assert says(PRIVILEGED, pod(False), ephemeral, execute())


def role(rules: list[dict[str, Any]], **more: Any) -> Event:
    return {
        "verb": "create",
        "objectRef": {"resource": "clusterroles", "apiGroup": RBAC, "name": "wide"},
        "responseObject": {"kind": "ClusterRole", "metadata": {"name": "wide"}, "rules": rules},
        **more,
    }


STARS = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
SECRETS = [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"]}]


def test_the_role_behind_a_binding() -> None:
    """A wildcard role is found behind the binding that gives it; what grants less is not; cluster-admin is known."""
    wild = {"objectRef": {"apiGroup": [RBAC]}, "verb": ["update"], "roleGrants": [{"verbs": ["*"], "resources": ["*"]}]}
    assert says(wild, role(STARS), binding(["a"], role="wide"))
    assert not says(wild, role(SECRETS), binding(["a"], role="wide"))
    assert not says(wild, role([{**STARS[0], "resourceNames": ["one"]}]), binding(["a"], role="wide"))
    assert says(wild, binding(["a"]))
    assert not says(wild, binding(["a"], role="wide")), "a role that nobody has seen"
    assert says(wild, role(STARS, verb="update"))
    assert says(wild, role(SECRETS), role(STARS, verb="patch", responseObject=None, requestObject={"rules": STARS}),
                binding(["a"], role="wide"))  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        ({"verbs": ["get"], "resources": ["secrets"]}, True),
        ({"verbs": ["create", "list"], "resources": ["pods", "secrets"], "apiGroups": [""]}, True),
        ({"verbs": ["create"], "resources": ["secrets"]}, False),
        ({"apiGroups": ["apps"]}, False),
        ({"nonResourceURLs": ["/metrics"]}, False),
    ],
)
def test_what_a_role_grants(wanted: dict[str, Any], granted: bool) -> None:
    """One rule of it allows a value of every list."""
    asked = {"objectRef": {"resource": ["clusterroles"]}, "roleGrants": [wanted]}
    assert says(asked, role(SECRETS)) is granted
    assert says(asked, role([*STARS, {"nonResourceURLs": ["/met*"], "verbs": ["get"]}]))


TOKEN: Event = {
    "verb": "create",
    "objectRef": {"resource": "serviceaccounts", "subresource": "token", "namespace": "shop", "name": "a"},
}
ADMIN: dict[str, Any] = {"serviceAccountGrants": [{"verbs": ["*"], "resources": ["*"], "clusterWide": True}]}


def test_the_rights_of_the_service_account_at_stake() -> None:
    """Of the one whose token is asked for, of the Pod's, of a token Secret's; that it has none is never certain."""
    assert says(ADMIN, binding(["a"], "create"), TOKEN)
    assert not says(ADMIN, binding(["b"], "create"), TOKEN)
    assert not says(ADMIN, binding(["a"], "create"), binding(["a"], "delete"), TOKEN)
    assert not says(ADMIN, binding(["a"], "create"), binding(["b"]), TOKEN)
    assert says(ADMIN, role(STARS), binding(["a"], "create", role="wide"), TOKEN)
    gone = {"verb": "deletecollection", "objectRef": {"resource": "clusterrolebindings", "apiGroup": RBAC}}
    assert not says(ADMIN, binding(["a"], "create"), gone, TOKEN)
    assert says(ADMIN, binding(["a"], "create"), pod(False, account="a"))
    assert says(ADMIN, binding(["a"], "create"), pod(False, account="a"), execute())
    assert says(ADMIN, binding(["default"], "create"), pod(False))
    secret = {
        "verb": "create",
        "objectRef": {"resource": "secrets", "namespace": "shop", "name": "t"},
        "requestObject": {"metadata": {"annotations": {"kubernetes.io/service-account.name": "a"}}},
    }
    assert says(ADMIN, binding(["a"], "create"), secret)
    assert not says({"not": ADMIN, "objectRef": {"subresource": ["token"]}}, binding(["b"], "create"), TOKEN)


def test_everybody_is_in_the_groups_of_service_accounts() -> None:
    """A binding to all ServiceAccounts is one to this."""
    everybody = binding(None, "create")
    everybody["responseObject"]["subjects"] = [{"kind": "Group", "name": "system:serviceaccounts"}]
    assert says(ADMIN, everybody, TOKEN)


def test_a_rule_names_the_resource_whose_past_it_asks_for() -> None:
    """Else every object of the cluster would have to be remembered."""
    with pytest.raises(RuleError, match=r"objectRef\.resource"):
        rule({"verb": ["update"], "previous": [{"jsonPath": "$.a", "patterns": ["*"]}]})
    with pytest.raises(RuleError, match="asks for no right"):
        rule({"roleGrants": [{"clusterWide": True}]})


def test_the_memory_is_bounded_and_travels() -> None:
    """The object written longest ago is forgotten; a checkpoint brings all others back, and nothing reads the same."""
    one = rule(PRIVILEGED)
    context = Context()
    context.ask([one])
    for number in range(MAX_OBJECTS + 1):
        context.note(RecordView(record(pod(True, f"p{number}"))))
    twin = Context()
    twin.ask([one])
    twin.restore(context.snapshot())
    assert twin.snapshot() == context.snapshot()
    assert len(context.snapshot()) < MAX_OBJECTS * 40
    answers = [
        bool(Matcher([one], context=each).match(record(execute(name))))
        for each in (context, twin) for name in ("p0", "p1", f"p{MAX_OBJECTS}")
    ]  # fmt: skip
    assert answers == [False, True, True] * 2
    twin.restore(b"")
    assert not Matcher([one], context=twin).match(record(execute("p1")))


def test_a_binding_of_too_many_subjects_is_unknown() -> None:
    """Its subjects are not kept, and it raises nothing by itself."""
    crowd = binding(["a", *(f"s{n}" for n in range(MAX_SUBJECTS))], "create")
    one = rule(ADMIN)
    context = Context()
    context.ask([one])
    context.note(RecordView(record(crowd)))
    assert not Matcher([one], context=context).match(record(TOKEN))


# ------------------------------------------------------------------------------------------------ invented histories

names = st.sampled_from(["a", "b"])
accounts = st.fixed_dictionaries({"kind": st.sampled_from(["ServiceAccount", "Group", "User"]), "name": names})
lists = st.lists(st.sampled_from(["*", "get", "pods", "", "*/exec"]), max_size=2)
policies = st.fixed_dictionaries(
    {}, optional={"verbs": lists, "resources": lists, "apiGroups": lists, "resourceNames": st.just(["x"])}
)
values = st.one_of(st.none(), st.integers(0, 2), st.sampled_from(["a", "b"]), st.booleans())
parts = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["Pod", "Role", "Status"]),
        "metadata": st.fixed_dictionaries({}, optional={"name": names, "labels": st.dictionaries(names, values, max_size=2)}),
        "roleRef": st.fixed_dictionaries({"kind": st.sampled_from(["Role", "ClusterRole"]),
                                          "name": st.sampled_from(["a", "b", "cluster-admin"])}),
        "subjects": st.lists(accounts, max_size=2),
        "rules": st.lists(policies, max_size=2),
        "spec": st.one_of(st.none(), st.fixed_dictionaries(
            {}, optional={"serviceAccountName": names, "a": values, "$patch": st.just("replace"),
                          "containers": st.lists(st.fixed_dictionaries({}, optional={"a": values}), max_size=2)})),
    },
)  # fmt: skip
patches = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "replace", "remove"]),
         "path": st.sampled_from(["/spec/a", "/metadata/labels/a", "/subjects", "/rules", "/spec"]), "value": values}
    ), max_size=2,
)  # fmt: skip
places = st.sampled_from(
    [("", "pods", ""), ("", "pods", "exec"), ("", "pods", "ephemeralcontainers"), (RBAC, "roles", ""), ("", "secrets", ""),
     (RBAC, "clusterroles", ""), (RBAC, "rolebindings", ""), (RBAC, "clusterrolebindings", ""), ("", "serviceaccounts", "token")]
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    events = []
    for _ in range(draw(st.integers(1, 5))):
        group, plural, subresource = draw(places)
        event: Event = {
            "verb": draw(st.sampled_from(["create", "update", "patch", "patch", "delete", "deletecollection", "get"])),
            "objectRef": {"apiGroup": group, "resource": plural, "subresource": subresource,
                          "namespace": "" if plural.startswith("cluster") else "a", "name": draw(names)},
        }  # fmt: skip
        if draw(st.integers(0, 5)) == 0:
            del event["objectRef"]["name"]
        if draw(st.booleans()):
            event["responseStatus"] = {"code": draw(st.sampled_from([200, 201, 403]))}
        if draw(st.integers(0, 9)) == 0:
            event["stage"] = draw(st.sampled_from(["RequestReceived", "ResponseStarted"]))
        if draw(st.booleans()):
            event["requestObject"] = draw(st.one_of(parts, patches) if event["verb"] == "patch" else parts)
        if draw(st.booleans()):
            event["responseObject"] = draw(parts)
        events.append(event)
    return events


paths = st.sampled_from(
    ["$.spec.a", "$.metadata.labels.*", "$.metadata.labels.a", "$ctr[*].a", "$pod.a", "$.subjects", "$.spec", "$.rules[*].verbs[0]"]
)  # fmt: skip
globs = st.lists(st.fixed_dictionaries({"jsonPath": paths, "patterns": st.sampled_from([["*"], ["a"], ["true", "1"]])}),
                 min_size=1, max_size=2)  # fmt: skip
wanted = st.lists(
    st.sampled_from([{"verbs": ["*"]}, {"verbs": ["get"], "resources": ["pods"]}, {"resources": ["pods/exec"]},
                     {"verbs": ["*"], "resources": ["*"], "clusterWide": True}]), min_size=1, max_size=2,
)  # fmt: skip
asked = st.fixed_dictionaries(
    {},
    optional={
        "previous": globs,
        "changed": st.lists(paths, min_size=1, max_size=2),
        "targetPod": globs,
        "roleGrants": wanted,
        "serviceAccountGrants": wanted,
        "whenUnknown": st.sampled_from(["holds", "fails"]),
        "verb": st.just(["update", "patch", "create"]),
    },
)
resources = ["pods", "roles", "clusterroles", "rolebindings", "clusterrolebindings", "serviceaccounts", "secrets"]
matches = st.tuples(asked, asked, st.sampled_from(["inline", "not", "noneOf", "anyOf"])).map(
    lambda drawn: {
        "objectRef": {"resource": resources},
        **({} if drawn[2] == "inline" else {drawn[2]: drawn[1] if drawn[2] == "not" else [drawn[1]]}),
        **drawn[0],
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(match=matches, events=histories())
def test_invented_histories_agree_with_the_reference(match: dict[str, Any], events: list[Event]) -> None:
    """Any conditions on any history, however the matcher's memory is carried over."""
    one = rule(match)
    context = Context()
    context.ask([one])
    for index, event in enumerate(events):
        got = bool(list(Matcher([one], context=context).match_batch([record(event)])))
        assert got is reference.native_matches(match, event, events[:index])
        kept = context.snapshot()
        context = Context()
        context.ask([one])
        context.restore(kept)


# --------------------------------------------------------------------------------------------------------- in the engine


def at(second: int, event: Event, **more: Any) -> AuditRecord:
    stamp = f"2026-01-01T00:00:{second:02}.000000Z"
    times = {"requestReceivedTimestamp": stamp, "stageTimestamp": stamp}
    return record({"stage": "ResponseComplete", **times, "user": {"username": "eve"}, **event, **more})


def engine(**changes: Any) -> Engine:
    made = Engine()
    made.arm(arm("r", rule_spec(**changes), {}))
    return made


def found(made: Engine, *records: AuditRecord) -> list[str]:
    """Per finding what its signals say of the context."""
    return [finding.signals.get("context", "known") for _, finding in made.inspect_batch(records)]


def test_a_finding_says_when_something_unknown_had_a_part_in_it() -> None:
    """Whoever reads it knows that the rule was lenient, and not sure."""
    made = engine(match={**PRIVILEGED, "whenUnknown": "holds"})
    assert found(made, at(0, execute("never-seen"))) == ["unknown"]
    assert found(made, at(1, pod(True)), at(2, execute())) == ["known"]
    assert found(made, at(3, pod(False, "meek")), at(4, execute("meek"))) == []


@pytest.mark.parametrize("cut", range(5))
def test_the_past_is_the_same_however_a_stream_is_cut(cut: int) -> None:
    """What was remembered travels in the checkpoint; a batch that is looked at again finds what it found."""
    events = [
        at(0, webhooks("Fail", "create")),
        at(1, webhooks("Ignore")),
        at(2, webhooks("Fail")),
        at(3, webhooks("Ignore")),
    ]
    whole = engine(match=NO_LONGER_CLOSED)
    assert len(found(whole, *events)) == 2
    first, second = engine(match=NO_LONGER_CLOSED), engine(match=NO_LONGER_CLOSED)
    before = found(first, *events[:cut])
    kept = first.snapshot()
    found(first, *events[cut:])
    first.restore(kept)
    second.restore(kept)
    assert found(first, *events[cut:]) == found(second, *events[cut:])
    assert len(before) + len(found(restored(kept), *events[cut:])) == 2
    assert first.snapshot() == second.snapshot()


def restored(state: bytes) -> Engine:
    made = engine(match=NO_LONGER_CLOSED)
    made.restore(state)
    return made


def test_an_exception_may_ask_for_the_past_too() -> None:
    """A known update of what already stood there is expected; the first one is not."""
    same = {"match": {"objectRef": {"resource": ["validatingwebhookconfigurations"]},
                      "previous": [{"jsonPath": "$.webhooks[*].failurePolicy", "patterns": ["Ignore"]}]},
            "name": "open", "owner": "team", "reason": "it always was"}  # fmt: skip
    asked = {"objectRef": NO_LONGER_CLOSED["objectRef"], "objectGlob": NO_LONGER_CLOSED["objectGlob"]}
    made = engine(match=asked, suppress={"exceptions": [same]})
    assert len(found(made, at(0, webhooks("Ignore", "create")), at(1, webhooks("Ignore")))) == 1


def test_a_rule_tests_itself_on_a_history() -> None:
    """`before` lists what came first; without it nobody knows."""
    test = {"name": "no longer closed", "expect": "hit", "event": webhooks("Ignore")}
    spec = rule_spec(match=NO_LONGER_CLOSED, tests=[{**test, "before": [webhooks("Fail", "create")]}])
    assert failure(arm("r", spec, {})) == ""
    assert "got a miss" in failure(arm("r", rule_spec(match=NO_LONGER_CLOSED, tests=[test]), {}))


def test_a_rule_that_asks_nothing_of_the_past_costs_no_memory() -> None:
    """Writes are not even looked at."""
    made = engine()
    found(made, at(0, webhooks("Fail", "create")), at(1, pod(True)))
    assert made.context.idle
    assert made.context.snapshot() == Context().snapshot()


def test_what_a_rule_learns_from_is_what_must_be_audited() -> None:
    """An exec needs no body; what tells of its Pod does, and the status says when that never comes."""
    here = arm("r", rule_spec(match={**PRIVILEGED, "whenUnknown": "holds"}), {})
    assert here.compiled.needs.level == "Metadata"
    assert "writes of pods, audited at Request or higher" in here.compiled.explain()[-1]
    levels = Levels()
    bare = {**pod(True), "level": "Metadata", "responseStatus": {"code": 201}}
    del bare["responseObject"]
    for hour in range(3):
        stamp = f"2026-01-01T0{hour}:00:00.000000Z"
        levels.note([record({**bare, "stageTimestamp": stamp, "requestReceivedTimestamp": stamp})])
    (remark,) = [one for one in remarks(here, levels, record(bare).seen_at) if one.type == "NeedsLevel"]
    assert "an hour of pods had none: audit them at Request" in remark.message
    assert arm("r", rule_spec(match=NO_LONGER_CLOSED), {}).compiled.needs.level == "Request"
