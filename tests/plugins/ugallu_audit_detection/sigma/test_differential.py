"""The matcher says what a slow, separate reading of both rule languages says, on real events and on invented ones."""

import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.sdk import AuditRecord, SigmaEmit, SigmaMatch, SigmaRuleSpec, decode_strict
from ugallu.testing import rules_reference as reference
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.imported import import_sigma
from ugallu_audit_detection.sigma.match import Matcher

DATA = Path(__file__).parents[3] / "data"
BOUNDED = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]
decode = msgspec.json.Decoder(AuditRecord).decode


def corpus() -> list[dict[str, Any]]:
    return [
        json.loads(line)["event"]
        for name in ("falco-k8saudit", "panther-k8s", "benign-audit2rbac", "benign-perfspec")
        for line in (DATA / "audit" / name / "events.jsonl").read_text().splitlines()
    ]


def native(match: dict[str, Any], name: str = "rule") -> CompiledRule:
    return compile_rule(name, SigmaRuleSpec(match=decode_strict(SigmaMatch, match), emit=EMIT))


def sigma(document: dict[str, Any]) -> CompiledRule:
    text = json.dumps(document)
    return compile_rule("rule", SigmaRuleSpec(sigma=text, emit=EMIT))


def upstream(detection: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "a rule",
        "logsource": {"product": "kubernetes", "service": "audit"},
        "detection": {"condition": "selection", **detection},
    }


def spellings(event: dict[str, Any]) -> Iterator[str]:
    """JSON of the same event as others write it: plain letters, and every character of every text as an escape."""
    plain = json.dumps(event, ensure_ascii=False)
    yield plain
    yield re.sub(
        r'"(?:[^"\\]|\\.)*"', lambda text: '"' + "".join(f"\\u{ord(c):04x}" for c in json.loads(text[0])) + '"', plain
    )


def answers(rule: CompiledRule, event: dict[str, Any]) -> bool:
    """Ask alone and in a matcher, before and after it has learned the caller, however it is spelt: all must agree."""
    record = decode(json.dumps(event))
    alone = rule.matches(record)
    assert all(rule.matches(decode(text)) is alone for text in spellings(event))
    matcher = Matcher([rule])
    for _ in range(3):
        assert bool(matcher.match(record)) is alone
    return alone


def test_the_given_sigmahq_rules_load_unchanged_and_match_what_the_reference_says() -> None:
    """All ten upstream rules serve as they are, and hit exactly the events that a separate reading hits."""
    paths = sorted((DATA / "sigma").glob("*.yml"))
    assert len(paths) == 10
    rules = []
    for path in paths:
        ((name, spec),) = import_sigma(path.read_text(), where=path.name)
        assert spec.sigma.strip() == path.read_text().strip()
        rules.append(compile_rule(name, spec))
    documents = [yaml.safe_load(path.read_text()) for path in paths]
    matcher = Matcher(rules)
    events = corpus()
    seen = set()
    for event in events:
        got = {rule.name for rule in matcher.match(decode(json.dumps(event)))}
        want = {f"sigma-{document['id']}" for document in documents if reference.sigma_matches(document, event)}
        assert got == want
        seen |= got
    assert len(events) > 500
    assert len(seen) >= 6, "the corpora must exercise the rules"


def test_native_rules_match_what_the_reference_says_on_the_corpora() -> None:
    """Every field of the grammar, on every recorded event."""
    matches: list[dict[str, Any]] = [
        {},
        {"verb": ["create", "patch"], "objectRef": {"resource": ["pods", "deployments"]}},
        {"subresource": [""]},
        {"subresource": ["exec", "attach"], "decision": "allow"},
        {"objectRef": {}, "not": {"user": {"usernameGlob": ["system:*"]}}},
        {"user": {"groups": ["system:masters"], "notUsernameGlob": ["*admin*"]}},
        {"impersonatedUser": {"present": True}},
        {"impersonatedUser": {"usernameGlob": ["b?b", "*"]}},
        {"responseCode": ["403", "5xx", "400-401"]},
        {"responseCode": ["2xx"], "responseReason": [], "stage": ["ResponseComplete"]},
        {"responseReason": ["Forbidden", "NotFound"]},
        {"responseMessageGlob": ["*cannot*"]},
        {"decision": "forbid"},
        {"requestURIGlob": ["*command=*sh*", "/healthz*"]},
        {"userAgentGlob": ["kubectl/*", "*curl*"]},
        {"sourceIPs": ["10.0.0.0/8", "192.31.196.0/24"]},
        {"sourceIPs": ["::/0", "0.0.0.0/0"], "sourceIPScope": "any"},
        {"annotations": {"authorization.k8s.io/*": ["*RBAC*"], "pod-security*": []}},
        {"objectGlob": [{"jsonPath": "$ctr[*].securityContext.privileged", "patterns": ["true"]}]},
        {"objectGlob": [{"jsonPath": "$pod.volumes[*].hostPath.path", "patterns": ["/*"]}]},
        {"requestObjectGlob": [{"jsonPath": "$.spec.containers[*].image", "patterns": ["*nginx*"]}]},
        {"requestObjectGlob": [{"jsonPath": "$.roleRef.name", "re": ["^cluster-adm"], "patterns": ["edit"]}]},
        {"responseObjectGlob": [{"jsonPath": "$.metadata.*", "patterns": ["*"]}]},
        {"fieldAbsent": ["$.metadata.labels", "$pod.securityContext.runAsNonRoot"]},
        {"sameElement": [{"path": "$.rules", "all": [{"jsonPath": "$.verbs[*]", "patterns": ["*"]},
                                                      {"jsonPath": "$.resources[*]", "patterns": ["pods*"]}]}]},
        {"dryRun": True},
        {"requestPathRe": ["^/api/v1/pods$", "/log$"]},
        {"query": {"limit": [], "timeoutSeconds": ["3*", "4*"]}},
        {"bodyKnown": False, "noneOf": [{"verb": ["get", "list", "watch"]}]},
        {"objectGlob": [{"jsonPath": "$pod.volumes[*].hostPath.path", "re": ["^/(etc|var)"], "asPath": True}]},
        {"objectGlob": [{"jsonPath": "$csr.organizations[*]", "patterns": ["*"]}]},
        {"noneOf": [{"verb": ["get", "list", "watch"]}, {"decision": "forbid"}, {"userGlob": ["system:*"]}]},
        {"anyOf": [{"nameGlob": ["*nginx*"]}, {"namespaceGlob": ["kube-*"]}], "level": ["RequestResponse", "Request"]},
    ]  # fmt: skip
    rules = [native(match, str(i)) for i, match in enumerate(matches)]
    matcher = Matcher(rules)
    seen: set[str] = set()
    for event in corpus():
        got = {rule.name for rule in matcher.match(decode(json.dumps(event)))}
        assert got == {str(i) for i, match in enumerate(matches) if reference.native_matches(match, event)}, event
        seen |= got
    assert len(seen) >= 20, "the corpora must exercise the grammar"


# ---------------------------------------------------------------------------------------------- invented rules and events

words = st.sampled_from(["a", "b", "ab", "A", "pods", "exec", "x/y", "a.b", "é", "ß", "", "1000000", "true", "0"])
names = st.sampled_from(["a", "b", "spec", "containers", "a.b", "image", "x/y", "é"])
scalars = st.one_of(
    words, st.none(), st.booleans(), st.integers(-3, 2_000_000), st.sampled_from([0.5, 1e6, 1e22, -0.0, 2.0])
)
bodies = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=12,
)
odd: st.SearchStrategy[Any] = st.one_of(words, st.none(), st.integers(0, 3), st.just([]), st.just({}))
callers = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"username": words, "uid": words, "groups": st.lists(words, max_size=2),
                      "extra": st.dictionaries(names, st.lists(words, max_size=2), max_size=2)}
    ),
    odd,
    st.fixed_dictionaries({"username": odd}),
)  # fmt: skip
references = st.fixed_dictionaries(
    {},
    optional={
        "resource": st.sampled_from(["pods", "deployments", "roles", "Pods"]),
        "apiGroup": st.sampled_from(["", "apps", "Apps"]),
        "subresource": st.sampled_from(["", "exec", "status"]),
        "name": words,
        "namespace": words,
    },
)
events = st.fixed_dictionaries(
    {"verb": st.sampled_from(["create", "patch", "get", "delete", "update", "Create", ""])},
    optional={
        "stage": st.sampled_from(["ResponseComplete", "RequestReceived"]),
        "level": st.sampled_from(["Metadata", "Request", "RequestResponse"]),
        "objectRef": st.one_of(st.none(), references),
        "requestURI": st.sampled_from(
            [
                "/a",
                "/a?dryRun=All",
                "/a?x=%2Fb&dry%52un=%41ll",
                "/%zz",
                "/api?command=sh",
                "/b//../a/%2e/x/?a=%2a&a=b&;=c&é=%zz",
            ]
        ),
        "userAgent": words,
        "user": callers,
        "impersonatedUser": callers,
        "sourceIPs": st.one_of(
            st.lists(st.sampled_from(["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "8.8.8.8", "no"]), max_size=2), odd
        ),
        "responseStatus": st.one_of(
            st.fixed_dictionaries(
                {}, optional={"code": st.sampled_from([0, 200, 403, 404, 500]), "reason": words, "message": words}
            ),
            odd,
        ),
        "annotations": st.one_of(
            st.dictionaries(
                st.sampled_from(["a", "a.b", "authorization.k8s.io/decision", "audit.k8s.io/truncated"]),
                st.sampled_from(["allow", "forbid", "true", "a", ""]),
                max_size=3,
            ),
            odd,
        ),
        "requestObject": bodies,
        "responseObject": bodies,
    },
)
patterns = st.lists(
    st.sampled_from(
        ["*", "a", "a*", "*b", "*a*", "?", "??", "a?", "*?b*", "true", "1000000", "é", "", "a*b", "ß*", "0", "*.*"]
    ),
    min_size=1,
    max_size=3,
)
paths = st.sampled_from(
    ["$", "$.a", "$.a.b", "$.*", "$[*]", "$.a[*]", "$.a[*].b[*]", "$.spec.containers[*].image", "$['a.b']", "$[0]", "$.a[1].b",
     "$pod.a", "$ctr[*].image", "$ctr[*].a[*]", "$['x/y'].é", "$.spec.*.a"]
)  # fmt: skip
plain_paths = paths.filter(lambda path: path.startswith(("$.", "$[")))
globs = st.fixed_dictionaries(
    {"jsonPath": paths},
    optional={"patterns": patterns, "ignoreCase": st.booleans(), "gt": st.just(0), "lt": st.just(10.5),
              "re": st.just(["^a", "b+$"]), "asPath": st.booleans(), "cidr": st.just(["10.0.0.0/8"])},
)  # fmt: skip
users = st.fixed_dictionaries(
    {},
    optional={"usernameGlob": patterns, "groups": st.lists(words, max_size=2), "notUsernameGlob": patterns,
              "uid": st.lists(words, max_size=2), "extra": st.dictionaries(names, patterns, max_size=2), "present": st.booleans()},
)  # fmt: skip
leaves = st.fixed_dictionaries(
    {},
    optional={
        "verb": st.lists(st.sampled_from(["create", "patch", "get", "delete"]), max_size=2),
        "stage": st.just(["ResponseComplete"]),
        "level": st.just(["Request", "RequestResponse"]),
        "subresource": st.lists(st.sampled_from(["", "exec"]), max_size=2),
        "objectRef": st.fixed_dictionaries(
            {},
            optional={
                "resource": st.lists(st.sampled_from(["pods", "deployments"]), max_size=2),
                "apiGroup": st.lists(st.sampled_from(["", "apps"]), max_size=2),
                "subresource": st.just(["exec"]),
                "namespace": st.lists(words, max_size=2),
                "nameGlob": patterns,
            },
        ),
        "user": users,
        "impersonatedUser": users,
        "userGlob": patterns,
        "nameGlob": patterns,
        "namespaceGlob": patterns,
        "responseCode": st.sampled_from([["403"], ["2xx", "404"], ["400-499"]]),
        "responseReason": st.lists(words, max_size=2),
        "responseMessageGlob": patterns,
        "decision": st.sampled_from(["allow", "forbid"]),
        "requestURIGlob": st.sampled_from([["/a*"], ["*dryRun*"], ["*/b*"]]),
        "userAgentGlob": patterns,
        "sourceIPs": st.sampled_from([["10.0.0.0/8"], ["fd00::/8", "8.8.8.8"]]),
        "sourceIPScope": st.sampled_from(["any", ""]),
        "annotations": st.dictionaries(st.sampled_from(["a", "a*", "*", "a.b"]), patterns, min_size=1, max_size=2),
        "requestObjectGlob": st.lists(globs, max_size=2),
        "responseObjectGlob": st.lists(globs, max_size=2),
        "objectGlob": st.lists(globs, max_size=2),
        "fieldAbsent": st.lists(paths, max_size=2),
        "sameElement": st.lists(
            st.fixed_dictionaries(
                {"path": paths,
                 "all": st.lists(st.fixed_dictionaries({"jsonPath": plain_paths, "patterns": patterns}), min_size=1, max_size=2)}
            ),
            max_size=1,
        ),
        "dryRun": st.booleans(),
        "bodyKnown": st.booleans(),
        "requestPathRe": st.sampled_from([["^/a$"], ["/x$", "b"]]),
        "query": st.dictionaries(st.sampled_from(["a", "x", "", "é"]), st.one_of(st.just([]), patterns), max_size=2),
    },
)  # fmt: skip
few = leaves.map(lambda leaf: dict(list(leaf.items())[:3]))
matches = st.tuples(
    few,
    st.one_of(st.just({}), st.fixed_dictionaries({"anyOf": st.lists(few, max_size=2)})),
    st.one_of(st.just({}), st.fixed_dictionaries({"not": few})),
    st.one_of(st.just({}), st.fixed_dictionaries({"noneOf": st.lists(few, max_size=2)})),
).map(lambda parts: {key: value for part in parts for key, value in part.items()})


@BOUNDED
@given(match=matches, event=events)
def test_invented_native_rules_agree_with_the_reference(match: dict[str, Any], event: dict[str, Any]) -> None:
    """Any rule of the grammar on any event, odd shapes included."""
    assert answers(native(match), event) is reference.native_matches(match, event)


@BOUNDED
@given(some=st.lists(matches, min_size=2, max_size=4), stream=st.lists(events, min_size=1, max_size=4))
def test_rules_in_one_matcher_do_not_disturb_each_other(
    some: list[dict[str, Any]], stream: list[dict[str, Any]]
) -> None:
    """What one rule names, and what one event leaves remembered, changes nothing for the others."""
    matcher = Matcher([native(match, str(number)) for number, match in enumerate(some)])
    for event in stream * 3:
        got = [rule.name for rule in matcher.match(decode(json.dumps(event)))]
        assert got == [str(number) for number, match in enumerate(some) if reference.native_matches(match, event)]


fields = st.sampled_from(
    ["verb", "objectRef.resource", "resource", "namespace", "name", "user.username", "user.groups", "impersonatedUser.username",
     "responseStatus.code", "responseStatus.reason", "annotations.a.b", "annotations.a", "user.extra.a.b", "requestURI",
     "requestObject.a", "requestObject.a.b", "requestObject", "responseObject.spec.containers.image", "requestObject['a.b']",
     "image", "capabilities", "hostPath", "sourceIPs", "sourceIPs[]", "impersonatedUser", "nothing.here", "apiGroup"]
)  # fmt: skip
texts = st.sampled_from(
    ["a", "A", "*", "a*", "?b", "*B*", "", "create", "replace", "pods", "ALLOW", "1000000", "True", "é", "SS"]
)
plain = st.one_of(texts, st.sampled_from([403, 200, True, False, None, 1000000, 0.5, 2]))
items = st.one_of(
    st.tuples(fields, st.one_of(plain, st.lists(plain, max_size=3))),
    st.tuples(
        st.tuples(
            fields, st.sampled_from(["contains", "startswith", "endswith", "contains|all", "contains|cased", "cased"])
        ),
        st.lists(texts.filter(bool), min_size=1, max_size=2),
    ),
    st.tuples(st.tuples(fields, st.just("exists")), st.booleans()),
    st.tuples(st.tuples(fields, st.sampled_from(["gt", "gte", "lt", "lte"])), st.sampled_from([1, 403, 0.5])),
    st.tuples(st.tuples(fields, st.sampled_from(["re", "re|i"])), st.sampled_from(["^a", "b$", "[ab]+", "PODS"])),
    st.tuples(st.tuples(fields, st.just("cidr")), st.sampled_from(["10.0.0.0/8", "fd00::/8"])),
    st.tuples(st.tuples(fields, st.sampled_from(["fieldref", "fieldref|startswith"])), fields),
    st.tuples(st.tuples(fields, st.just("neq")), texts.filter(bool)),
).map(lambda pair: (pair[0] if isinstance(pair[0], str) else "|".join(pair[0]), pair[1]))
selections = st.one_of(
    st.lists(items, min_size=1, max_size=3).map(dict),
    st.lists(st.lists(items, min_size=1, max_size=2).map(dict), min_size=1, max_size=2),
    st.lists(st.sampled_from(["a", "pods", "*x*", "zz"]), min_size=1, max_size=2),
)
conditions = st.sampled_from(
    ["s1", "not s1", "s1 and s2", "s1 or not s2", "1 of s*", "all of s*", "1 of them", "not (s1 or s2) or s2 and s1",
     ["s1", "s2"]]
)  # fmt: skip


@BOUNDED
@given(first=selections, second=selections, condition=conditions, event=events)
def test_invented_sigma_rules_agree_with_the_reference(
    first: Any, second: Any, condition: Any, event: dict[str, Any]
) -> None:
    """Any modifier and condition on any event."""
    document = upstream({"s1": first, "s2": second, "condition": condition})
    assert answers(sigma(document), event) is reference.sigma_matches(document, event)


requests = st.fixed_dictionaries(
    {"verb": words},
    optional={
        "objectRef": st.fixed_dictionaries({}, optional=dict.fromkeys(("resource", "apiGroup", "subresource"), words))
    },
)
parts = st.sampled_from(["verb", "objectRef.resource", "objectRef.apiGroup", "objectRef.subresource", "user.username"])


@BOUNDED
@given(
    left=parts,
    right=parts,
    negated=st.booleans(),
    how=st.sampled_from(["", "|startswith", "|endswith"]),
    event=requests,
)
def test_what_a_request_is_about_compares_with_itself(
    left: str, right: str, negated: bool, how: str, event: dict[str, Any]
) -> None:
    """Kinds of request that no rule names are not all the same to a rule that compares their parts."""
    document = upstream({"s1": {f"{left}|fieldref{how}": right}, "condition": "not s1" if negated else "s1"})
    assert answers(sigma(document), event) is reference.sigma_matches(document, event)


@pytest.mark.parametrize("language", ["native", "sigma"])
def test_both_languages_agree_on_the_incident(language: str) -> None:
    """The same 80 rules in both languages find what the reference finds in the recorded incident."""
    root = Path(__file__).parents[4]
    found = importlib.util.spec_from_file_location("bench_rules", root / "benchmarks" / "make_rules.py")
    assert found is not None
    assert found.loader is not None
    bench = importlib.util.module_from_spec(found)
    found.loader.exec_module(bench)
    objects, documents = bench.make(80)
    if language == "native":
        rules = [native(each["spec"]["match"], str(i)) for i, each in enumerate(objects)]
    else:
        imported = import_sigma(bench.sigma_stream(documents), where="stream")
        rules = [compile_rule(str(i), spec) for i, (_, spec) in enumerate(imported)]
    lines = gzip.decompress((root / "examples" / "audit.jsonl.gz").read_bytes()).splitlines()[::60]
    matcher = Matcher(rules)
    hits = 0
    for line in lines:
        event = json.loads(line)
        got = {rule.name for rule in matcher.match(decode(line))}
        hits += len(got)
        assert got == {
            str(i) for i, each in enumerate(objects) if reference.native_matches(each["spec"]["match"], event)
        }
    assert hits > 2
