"""What events say: templates in one pass, values cut and cleaned, base signals always."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.event import MAX_SIGNAL_BYTES, MAX_SIGNALS
from ugallu.testing.audit import audit_record
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.signals import MAX_VALUE, Signals, base_of, template

POD = {"kind": "Pod", "spec": {"hostPID": True, "containers": [{"image": "a"}, {"image": "b"}]}}


def expand(text: str, **changes: Any) -> str:
    return template(text)(Seen(audit_record(**changes)))


def signals(templates: dict[str, str] | None = None, tags: tuple[str, ...] = (), **changes: Any) -> dict[str, str]:
    seen = Seen(audit_record(**changes))
    return Signals("my-rule", tags, templates or {}).of(seen, base_of(seen))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${verb} by ${user.username}", "get by alice"),
        ("${stage} ${userAgent} ${requestURI}", "ResponseComplete kubectl/v1.34.0 /api/v1/namespaces/shop/pods/web-0"),
        ("${objectRef.resource}/${objectRef.namespace}/${objectRef.name}", "pods/shop/web-0"),
        ("[${objectRef.apiGroup}] ${objectRef.apiVersion}", "[] v1"),
        ("${nothing} ${user.password} ${", "${nothing} ${user.password} ${"),
        ("${user.groups}", "system:authenticated,dev"),
        ("${user.extra.authentication.kubernetes.io/pod-name}", "web-0"),
        ("${impersonatedUser.username}", "bob"),
        ("${sourceIPs[-1]} of ${sourceIPs}", "10.0.0.7 of 1.2.3.4,10.0.0.7"),
        ("${responseStatus.code} ${responseStatus.reason}", "403 Forbidden"),
        ("${annotations.authorization.k8s.io/decision}", "forbid"),
        ("${requestObject:$.spec.hostPID}", "true"),
        ("${requestObject:$.spec.containers[*].image}", "a,b"),
        ("${responseObject:$.metadata.name}", ""),
        ("$${verb}", "$get"),
    ],
)
def test_placeholders(text: str, said: str) -> None:
    """Each placeholder names one thing; an unknown one stays as text."""
    event = {
        "user": {
            "username": "alice",
            "groups": ["system:authenticated", "dev"],
            "extra": {"authentication.kubernetes.io/pod-name": ["web-0"]},
        },
        "impersonatedUser": {"username": "bob"},
        "sourceIPs": ["1.2.3.4", "10.0.0.7"],
        "responseStatus": {"code": 403, "reason": "Forbidden"},
        "annotations": {"authorization.k8s.io/decision": "forbid"},
        "requestObject": POD,
    }
    assert expand(text, **event) == said


def test_a_value_is_never_read_again() -> None:
    """A client that sends a placeholder sees it come back as it was."""
    assert expand("${userAgent}", userAgent="${user.username}${verb}") == "${user.username}${verb}"


def test_a_missing_reference_is_empty_text() -> None:
    """Requests outside the API have no object."""
    assert expand("[${objectRef.name}]", objectRef=None) == "[]"


def test_a_bad_path_does_not_compile() -> None:
    """A JSON path in a placeholder obeys the grammar of rules."""
    with pytest.raises(RuleError, match="understood"):
        template("${requestObject:$..deep}")


def test_secrets_are_out_before_a_signal_is_made() -> None:
    """A rule that asks for the data of a Secret gets its size."""
    ref = {"resource": "secrets", "name": "db", "namespace": "shop"}
    body = {"kind": "Secret", "data": {"password": "aHVudGVyMg=="}}
    for path in ("$", "$.data", "$.data.password", "$.data.*"):
        for part in ("requestObject", "responseObject"):
            said = expand(f"${{{part}:{path}}}", objectRef=ref, requestObject=body, responseObject=body)
            assert "aHVud" not in said
            assert "[redacted 12]" in said


def test_base_signals_are_always_there() -> None:
    """By these a reader finds the line, the caller, the rule."""
    assert signals(tags=("attack.t1609", "attack.T1613", "attack.execution")) == {
        "rule": "my-rule",
        "audit.id": "3f6c1e9a-0000-4000-8000-000000000001",
        "audit.stage": "ResponseComplete",
        "verb": "get",
        "user": "alice",
        "user.groups": "system:authenticated",
        "source.ip": "10.0.0.7",
        "user.agent": "kubectl/v1.34.0",
        "response.code": "200",
        "request.uri": "/api/v1/namespaces/shop/pods/web-0",
        "attack.technique": "T1609,T1613",
    }


def test_what_is_unknown_is_said_to_be() -> None:
    """No code yet, bodies cut by the API server, a dry run: facts about the record itself."""
    said = signals(
        responseStatus=None,
        annotations={"audit.k8s.io/truncated": "true"},
        requestURI="/api/v1/namespaces/shop/pods?dryRun=All",
        verb="create",
    )
    assert (said["outcome"], said["audit.truncated"], said["dry.run"]) == ("unknown", "true", "true")
    assert "response.code" not in said


def test_a_rule_cannot_take_away_what_traces_an_event() -> None:
    """Rule name, audit id and stage are ours; other base signals may be said better by the rule."""
    said = signals({"rule": "other", "audit.id": "0", "audit.stage": "x", "user": "${user.username}!"})
    assert (said["rule"], said["audit.stage"], said["user"]) == ("my-rule", "ResponseComplete", "alice!")
    assert said["audit.id"].startswith("3f6c")


@pytest.mark.parametrize("hostile", ["x" * 100_000, "\x00\n\r\x1b[31m", "ä" * 5000, "😀" * 3000, "a.b/c:;,'\""])
def test_a_hostile_audit_id_is_cut_and_printable(hostile: str) -> None:
    """`Audit-ID` is a header of the client: any length, any character."""
    said = signals(auditID=hostile)["audit.id"]
    assert said.isprintable()
    assert 0 < len(said.encode()) <= 256


def test_signals_fit_into_an_event() -> None:
    """However many a rule asks for and however long they are, what is left out is counted."""
    templates = {f"s{index:03}": "${requestObject:$.a}" for index in range(200)}
    said = signals(templates, requestObject={"a": "x" * 5000}, requestURI="/" + "ü" * 5000, userAgent="ü" * 5000)
    assert len(said) <= MAX_SIGNALS
    assert sum(len(k.encode()) + len(v.encode()) for k, v in said.items()) <= MAX_SIGNAL_BYTES
    kept = [name for name in said if name.startswith(("s0", "s1"))]
    assert int(said["signals.cut"]) == 200 - len(kept)
    assert all(len(said[name]) == MAX_VALUE for name in kept)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=3000),
    st.text(max_size=3000),
    st.text(max_size=300),
    st.dictionaries(st.text(max_size=9), st.text()),
)
def test_no_text_makes_signals_too_large(uri: str, agent: str, user: str, templates: dict[str, str]) -> None:
    """The bound on an event's signals holds for all inputs."""
    said = signals(templates, requestURI=uri, userAgent=agent, user={"username": user, "groups": [agent]})
    assert sum(len(k.encode()) + len(v.encode()) for k, v in said.items()) <= MAX_SIGNAL_BYTES
    assert all(value.isprintable() for value in said.values())
