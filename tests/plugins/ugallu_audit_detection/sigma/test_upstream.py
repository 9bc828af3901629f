"""Upstream Sigma: its fields, modifiers and conditions on audit records, and what it may not do."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.sdk import AuditRecord, SigmaEmit, SigmaMatch, SigmaRuleSpec
from ugallu.testing.audit import audit_record
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.errors import Reason, RuleError
from ugallu_audit_detection.sigma.match import Matcher
from ugallu_audit_detection.sigma.view import RecordView

EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]
SOURCE = {"product": "kubernetes", "service": "audit"}


def document(selection: Any, condition: Any = "s", **more: Any) -> str:
    return json.dumps(
        {"title": "t", "logsource": SOURCE, "detection": {"s": selection, "condition": condition}, **more}
    )


def rule(selection: Any, condition: Any = "s", **placeholders: list[str]) -> CompiledRule:
    return compile_rule("r", SigmaRuleSpec(sigma=document(selection, condition), emit=EMIT), placeholders=placeholders)


def hits(selection: Any, **event: Any) -> bool:
    one = rule(selection)
    record = msgspec.json.decode(json.dumps(event), type=AuditRecord)
    found = one.matches(record)
    matcher = Matcher([one])
    assert [bool(matcher.match(record)) for _ in range(3)] == [found] * 3
    return found


POD = {
    "verb": "create",
    "objectRef": {"resource": "pods", "namespace": "kube-system"},
    "requestObject": {
        "spec": {
            "hostNetwork": True,
            "volumes": [{"name": "a"}, {"hostPath": {"path": "/etc"}}],
            "containers": [
                {"image": "good", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, "privileged": True}}
            ],
            "initContainers": [{"image": "evil:1"}],
        }
    },
}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"hostPath": "*"}, True),
        ({"hostPath|exists": True}, True),
        ({"capabilities": "*"}, True),
        ({"capabilities": "sys_admin"}, True),
        ({"capabilities|contains": "NET"}, False),
        ({"privileged": True}, True),
        ({"privileged": "true"}, True),
        ({"image|startswith": "EVIL"}, True),
        ({"image|startswith|cased": "EVIL"}, False),
        ({"hostNetwork": True, "hostPID": None}, True),
        ({"hostPID|exists": False}, True),
        ({"namespace": "KUBE-system", "resource": "pods"}, True),
        ({"objectRef.name": None}, True),
        ({"objectRef.name": ""}, True),
        ({"objectRef.name": "*"}, False),
        ({"requestObject.spec.volumes.hostPath.path": "/etc"}, True),
        ({"requestObject.spec.containers.image": ["x", "good"]}, True),
        ({"image|all": ["good", "evil*"]}, True),
        ({"image|neq": "good"}, False),
        ({"nothing": None}, True),
        ({"nothing": "*"}, False),
        (["sys_admin"], True),
        (["hostpath"], False),
        ({"|contains": "/et"}, True),
        ({"verb": ["replace", "create"]}, True),
        ({"verb|re": "^cre.te$"}, True),
        ({"verb|re": "^CRE"}, False),
        ({"verb|re|i": "^CRE"}, True),
    ],
)
def test_fields_and_modifiers(selection: Any, expected: bool) -> None:
    """Bare names mean the Pod spec, arrays mean any element, text ignores case unless it is `cased`."""
    assert hits(selection, **POD) is expected


@pytest.mark.parametrize(
    ("selection", "event", "expected"),
    [
        ({"responseStatus.code": "ALLOW"}, {"annotations": {"authorization.k8s.io/decision": "allow"}}, True),
        ({"responseStatus.code": "DENY"}, {"annotations": {"authorization.k8s.io/decision": "forbid"}}, True),
        ({"responseStatus.code": [401, 403]}, {"responseStatus": {"code": 403}}, True),
        ({"responseStatus.code": "403"}, {"responseStatus": {"code": 403}}, True),
        ({"responseStatus.code|gte": 400, "responseStatus.code|lt": 500}, {"responseStatus": {"code": 404}}, True),
        ({"sourceIPs|cidr": "10.0.0.0/8"}, {"sourceIPs": ["10.0.0.1", "8.8.8.8"]}, False),
        ({"sourceIPs[]|cidr": "10.0.0.0/8"}, {"sourceIPs": ["10.0.0.1", "8.8.8.8"]}, True),
        ({"stageTimestamp|hour": 22}, {"stageTimestamp": "2026-11-25T23:30:00+01:00"}, True),
        ({"stageTimestamp|hour|gte": 23}, {"stageTimestamp": "2026-11-25T22:30:00.123456Z"}, False),
        ({"stageTimestamp|year": 2026}, {"stageTimestamp": "nonsense"}, False),
        ({"user.username|fieldref": "objectRef.name"}, {"user": {"username": "Bob"}, "objectRef": {"name": "bob"}}, True),
        ({"user.username|fieldref": "objectRef.name"}, {"user": {}, "objectRef": {}}, False),
        ({"user.username|fieldref": "verb"}, {"verb": "bob", "user": {"username": "bob"}}, True),
        ({"user.groups|fieldref|endswith": "objectRef.name"}, {"user": {"groups": ["x", "a-B"]}, "objectRef": {"name": "b"}}, True),
        ({"user.groups|fieldref|contains": "objectRef.name"}, {"user": {"groups": ["x", "abc"]}, "objectRef": {"name": "B"}}, True),
        ({"user.groups|fieldref|contains": "objectRef.name"}, {"user": {"groups": ["a", "b"]}, "objectRef": {"name": "a\nb"}}, False),
        ({"objectRef": "*bob*"}, {"objectRef": {"name": "bob"}}, True),
        ({"user.extra.authentication.kubernetes.io/pod-name": "p*"},
         {"user": {"extra": {"authentication.kubernetes.io/pod-name": ["pod-1"]}}}, True),
        ({"annotations.authorization.k8s.io/decision": "allow"}, {"annotations": {"authorization.k8s.io/decision": "allow"}}, True),
        ({"requestObject.metadata.labels.a.b/c": "x"}, {"requestObject": {"metadata": {"labels": {"a.b/c": "x"}}}}, True),
        ({"requestObject.metadata.labels['a.b']": "x"}, {"requestObject": {"metadata": {"labels": {"a.b": "x"}}}}, True),
        ({"requestObject['a.b']": "x"}, {"requestObject": {"a.b": "x"}}, True),
        ({"requestObject['a.b'].c": "x"}, {"requestObject": {"a": {"b": {"c": "x"}}}}, False),
        ({"requestObject.a.b.c": "x", "requestObject['a.b'].c": None}, {"requestObject": {"a": {"b": {"c": "x"}}}}, True),
        ({"impersonatedUser|exists": True}, {"impersonatedUser": {"username": "x"}}, True),
        ({"impersonatedUser|exists": True}, {"user": {"username": "x"}}, False),
        ({"requestURI|contains": r"\*"}, {"requestURI": "/a*b"}, True),
        ({"requestURI|contains": r"\*"}, {"requestURI": "/ab"}, False),
        ({"requestURI|base64offset|contains": "secret"}, {"requestURI": "/x?c=YSBzZWNyZXQgaGVyZQ"}, True),
        ({"requestURI|windash|contains": " -enc"}, {"requestURI": "a /enc"}, True),
    ],
)  # fmt: skip
def test_values(selection: Any, event: dict[str, Any], expected: bool) -> None:
    """Numbers, words of cloud providers, addresses, times in UTC, references, keys with dots, encodings."""
    assert hits(selection, **event) is expected


def test_placeholders_come_from_the_configuration() -> None:
    """`expand` takes the configured values, with their wildcards; without any the rule does not compile."""
    one = rule({"user.username|expand": "%admins%"}, admins=["alice", "bob"])
    assert one.matches(AuditRecord(user=msgspec.Raw(b'{"username":"Bob"}')))
    with pytest.raises(RuleError, match="admins") as refused:
        rule({"user.username|expand": "%admins%"})
    assert refused.value.reason is Reason.COMPILE_ERROR


def test_a_filter_document_takes_events_out() -> None:
    """A Sigma filter in the same stream is AND NOT as it says, on the rules it names."""
    base = json.loads(document({"verb": "create"}))
    base["id"] = "00000000-0000-4000-8000-000000000001"
    exclude = {
        "title": "f",
        "logsource": SOURCE,
        "filter": {"rules": [base["id"]], "known": {"user.username": "ci"}, "condition": "not known"},
    }
    text = json.dumps(base) + "\n---\n" + json.dumps(exclude)
    one = compile_rule("r", SigmaRuleSpec(sigma=text, emit=EMIT))
    assert one.matches(AuditRecord(verb="create"))
    assert not one.matches(AuditRecord(verb="create", user=msgspec.Raw(b'{"username":"ci"}')))


def test_unknown_fields_are_named() -> None:
    """A field that no audit record has is told, not silently ignored."""
    assert rule({"verb": "create", "EventID": 4625}).unknown_fields == ("EventID",)
    assert any("EventID" in line for line in rule({"EventID": 4625}).explain())


LINES = "title: t\nlogsource: {product: kubernetes, service: audit}\ndetection:\n"
HOSTILE: list[tuple[str, str, Reason]] = [
    ("brackets", document({"verb": "x"}, "(" * 40 + "s" + ")" * 40), Reason.COMPILE_ERROR),
    ("negations", document({"verb": "x"}, "not " * 300 + "s"), Reason.COMPILE_ERROR),
    ("unfolding", json.dumps({"title": "t", "logsource": SOURCE, "detection": {
        **{f"s{i}": {"verb": [str(j) for j in range(20)]} for i in range(100)},
        "condition": " or ".join(["1 of them"] * 150)}}), Reason.COMPILE_ERROR),
    ("many values", document({"requestURI|contains": [f"v{i}" for i in range(3000)]}), Reason.COMPILE_ERROR),
    ("aliases", "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 8) + "]\n" for i in range(8)
    ) + "title: t\nlogsource: {product: kubernetes, service: audit}\ndetection: {s: {verb: *i}, condition: s}", Reason.COMPILE_ERROR),
    ("cycle", "title: &a [*a]", Reason.COMPILE_ERROR),
    ("cycle in a detection", f"{LINES}  s: &x\n    verb: *x\n  condition: s", Reason.COMPILE_ERROR),
    ("flow nesting", "[" * 30_000, Reason.COMPILE_ERROR),
    ("size", "#" * 70_000, Reason.COMPILE_ERROR),
    ("tags", '!!python/object/apply:os.system ["true"]', Reason.COMPILE_ERROR),
    ("repetition", document({"verb|re": "((a{1,1000}){1,1000}){1,1000}"}), Reason.REGEX),
    ("look-around", document({"verb|re": "(?<=a)b"}), Reason.REGEX),
    ("long regex", document({"verb|re": "a" * 513}), Reason.REGEX),
    ("pipe", document({"verb": "x"}, "s | count() > 5"), Reason.UNSUPPORTED),
    ("sum", json.dumps({"title": "c", "correlation": {"type": "value_sum", "rules": ["a"], "timespan": "5m",
     "group-by": ["user.username"], "condition": {"gte": 10, "field": "verb"}}}), Reason.UNSUPPORTED),
    ("correlation with brackets", json.dumps({"title": "c", "correlation": {"type": "temporal", "rules": ["a"],
     "timespan": "5m", "condition": "(" * 40 + "a" + ")" * 40}}), Reason.COMPILE_ERROR),
    ("correlation of too many", json.dumps({"title": "c", "correlation": {"type": "temporal", "timespan": "5m",
     "rules": [f"r{i}" for i in range(65)]}}), Reason.COMPILE_ERROR),
    ("other log", json.dumps({"title": "t", "logsource": {"product": "linux"},
     "detection": {"s": {"a": "b"}, "condition": "s"}}), Reason.LOG_SOURCE),
    ("no map", "- a", Reason.COMPILE_ERROR),
    ("no text key", "1: 2", Reason.COMPILE_ERROR),
    ("no condition", json.dumps({"title": "t", "logsource": SOURCE, "detection": {"s": {"a": "b"}}}), Reason.COMPILE_ERROR),
    ("numbers as fields", "title: t\nlogsource: {product: kubernetes, service: audit}\ndetection: {s: {1: x}, condition: s}",
     Reason.COMPILE_ERROR),
    ("two rules", document({"verb": "x"}) + "\n---\n" + document({"verb": "y"}), Reason.COMPILE_ERROR),
    ("bad address", document({"sourceIPs|cidr": "10.0.0"}), Reason.COMPILE_ERROR),
    ("one element", document({"requestObject.spec.containers[0].image": "x"}), Reason.JSON_PATH),
    ("one element of the answer", document({"responseObject.spec.containers[-1].image": "x"}), Reason.JSON_PATH),
    ("half a bracket", document({"requestObject.spec['a": "x"}), Reason.JSON_PATH),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), [pytest.param(text, reason, id=name) for name, text, reason in HOSTILE])
def test_what_cannot_serve_is_refused_at_once(text: str, reason: Reason, capfd: pytest.CaptureFixture[str]) -> None:
    """Hostile and broken rules end in an error with a reason and a fix, quickly, and say nothing on standard error."""
    with pytest.raises(RuleError) as refused:
        compile_rule("r", SigmaRuleSpec(sigma=text, emit=EMIT))
    assert refused.value.reason is reason
    assert refused.value.fix
    assert len(str(refused.value)) < 700
    assert capfd.readouterr().err == ""


def test_match_and_sigma_exclude_each_other() -> None:
    """A rule is native or upstream, not both."""
    with pytest.raises(RuleError, match="both"):
        compile_rule("r", SigmaRuleSpec(sigma=document({"verb": "x"}), match=SigmaMatch(verb=("get",)), emit=EMIT))


yamlish = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=8),
              st.sampled_from(["verb", "condition", "s", "1 of them", "not s", "*", "\\", "%x%", "kubernetes", "audit"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["verb", "s", "condition", "verb|re", "verb|contains", "x|gt", "a|b", "|", "rules"]),
                        inner, max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(detection=yamlish, source=st.one_of(st.just(SOURCE), yamlish), extra=st.dictionaries(
    st.sampled_from(["tags", "level", "status", "id", "custom", "filter", "correlation", "action", "references", "date"]),
    yamlish, max_size=2))  # fmt: skip
def test_the_loader_takes_anything(detection: Any, source: Any, extra: dict[str, Any]) -> None:
    """Whatever stands in a rule, it compiles or is refused with a reason."""
    text = json.dumps({"title": "t", "logsource": source, "detection": detection, **extra})
    with contextlib.suppress(RuleError):
        compile_rule("r", SigmaRuleSpec(sigma=text, emit=EMIT)).matches(AuditRecord(verb="s"))


WEDNESDAY: dict[str, Any] = {
    "verb": "create",
    "stageTimestamp": "2026-11-25T22:31:00Z",
    "userAgent": "d2hvYW1p",
    "user": {"username": "Alice", "groups": ["a", "b"]},
}
TWO = {"a": {"verb": "delete"}, "b": {"verb": "create"}}


@pytest.mark.parametrize(
    ("detection", "expected"),
    [
        *(({"s": {f"stageTimestamp|{part}": number}, "condition": "s"}, True)
          for part, number in {"minute": 31, "hour": 22, "day": 25, "week": 48, "month": 11, "year": 2026}.items()),
        ({"s": {"userAgent|base64": "whoami"}, "condition": "s"}, True),
        ({"s": {"userAgent|wide|base64offset|contains": "whoami"}, "condition": "s"}, False),
        ({"s": {"objectRef.namespace": []}, "condition": "s"}, True),
        ({"s": {"user.groups|neq": "b"}, "condition": "s"}, False),
        ({**TWO, "condition": "any of them"}, True),
        ({**TWO, "condition": "all of them"}, False),
        ({"p_a": TWO["a"], "p_b": TWO["b"], "condition": "1 of p_*"}, True),
        ({"a": TWO["a"], "_b": TWO["b"], "condition": "1 of them"}, False),
        ({**TWO, "condition": ["a", "b"]}, True),
        ({**TWO, "condition": "b or b and a"}, True),
        ({**TWO, "condition": "not b or a"}, False),
    ],
)  # fmt: skip
def test_constructs_that_few_rules_use(detection: dict[str, Any], expected: bool) -> None:
    """Parts of a time, encodings, empty lists, counts of selections, lists of conditions, precedence."""
    text = json.dumps({"title": "t", "logsource": SOURCE, "detection": detection})
    record = msgspec.json.decode(json.dumps(WEDNESDAY), type=AuditRecord)
    assert compile_rule("r", SigmaRuleSpec(sigma=text, emit=EMIT)).matches(record) is expected


@pytest.mark.parametrize(
    "name", ["containers.image", "containers[*].image", "containers[].image", "['containers'].image"]
)
def test_an_array_is_crossed_whole(name: str) -> None:
    """Whether or not the name says so."""
    text = document({f"requestObject.spec.{name}": "two"})
    rule = compile_rule("r", SigmaRuleSpec(sigma=text, emit=EMIT))
    record = audit_record(requestObject={"spec": {"containers": [{"image": "one"}, {"image": "two"}]}})
    assert rule.holds(RecordView(record))
