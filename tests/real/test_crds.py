"""The kinds on a real API server: what its schema machinery makes of our definitions."""

import json
from typing import Any

import msgspec
import pytest

from tests.rig.cluster import ApiServer
from tests.rig.ground import RigError
from ugallu.api.crd import crd
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.gitops import GitopsResponderConfig
from ugallu.api.kinds import KINDS
from ugallu.api.meta import API_VERSION, Resource, encode
from ugallu.testing.invented import filled

pytestmark = pytest.mark.real

MADE_OF_DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TTLConfig": (
        {"defaults": {"securityEvent": {}, "eventResponse": {}, "attestationBundle": {}}},
        {
            "archiveSnapshotEnabled": True,
            "defaults": {
                "securityEvent": {"info": "6h", "low": "12h", "medium": "24h", "high": "72h", "critical": "168h"},
                "eventResponse": {"strategy": "matchParent"},
                "attestationBundle": {"strategy": "parentPlusGrace", "grace": "168h"},
            },
        },
    ),
    "ForensicsConfig": (
        {"trigger": {}, "snapshot": {}},
        {
            "trigger": {
                "classes": ["Detection", "Anomaly"],
                "minSeverities": ["high", "critical"],
                "requireAttested": True,
            },
            "snapshot": {
                "filesystemSnapshot": True,
                "memorySnapshot": False,
                "maxBytes": "2Gi",
                "timeoutSeconds": 300,
            },
            "maxConcurrentIncidents": 5,
        },
    ),
    "AuditDetectionConfig": (
        {"eventBus": {"tokenSecret": {"key": "token"}}},
        {"eventBus": {"enabled": False, "listenAddr": ":8444", "tokenSecret": {"key": "token", "name": ""}}},
    ),
}
"""For some kinds a sparse spec, and what the server makes of it."""


@pytest.fixture(scope="module")
def kinds(api: ApiServer) -> ApiServer:
    """Return the API with all our kinds, established."""
    api.serve_kinds()
    return api


def path_of(kind: type[Resource], namespace: str, name: str = "", part: str = "") -> str:
    scope = f"/namespaces/{namespace}" if kind.kind_info.namespaced else ""
    tail = "".join(f"/{piece}" for piece in (name, part) if piece)
    return f"/apis/{API_VERSION}{scope}/{kind.kind_info.plural}{tail}"


def document(kind: type[Resource], name: str) -> dict[str, Any]:
    """An object with every field filled, as it goes over the wire."""
    found: dict[str, Any] = json.loads(encode(filled(kind).with_metadata(name=name)))
    return found


def sparse(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def refused(api: ApiServer, kind: type[Resource], namespace: str, body: dict[str, Any]) -> str:
    """Post what must be refused, and return why."""
    status, answer = api.request("POST", path_of(kind, namespace), body)
    assert status == 422, answer
    return str(json.loads(answer)["message"])


def kind_named(name: str) -> type[Resource]:
    return next(kind for kind in KINDS if kind.__name__ == name)


def test_all_kinds_are_served_without_a_complaint(kinds: ApiServer) -> None:
    """Every definition is structural and accepted, and all its short names and ours for scans are free."""
    listed = json.loads(kinds.kubectl("get", "crds", "-o", "json"))["items"]
    ours = {item["spec"]["names"]["kind"]: item for item in listed if item["spec"]["group"] == "security.ugallu.io"}
    assert sorted(ours) == sorted(kind.__name__ for kind in KINDS)
    for name, item in ours.items():
        conditions = {one["type"]: one["status"] for one in item["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}, name
        assert item["status"]["acceptedNames"]["shortNames"] == list(kind_named(name).kind_info.short_names)


def test_a_definition_comes_back_as_it_was_sent(kinds: ApiServer) -> None:
    """The server adds defaults of its own to a definition, and drops nothing of ours."""
    for kind in KINDS:
        ours = crd(kind)
        item = json.loads(kinds.kubectl("get", "crd", ours["metadata"]["name"], "-o", "json"))
        assert missing(ours["spec"], item["spec"], kind.__name__) == []


def missing(ours: Any, theirs: Any, path: str) -> list[str]:
    """Return where something of ours is not in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [fault for key, part in ours.items() for fault in missing(part, theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [fault for index, (a, b) in pairs for fault in missing(a, b, f"{path}[{index}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_that_we_can_write_is_stored(kinds: ApiServer, kind: type[Resource]) -> None:
    """An object with all fields filled is accepted, spec and status, and comes back whole: nothing is pruned."""
    namespace, sent = kinds.namespace(), document(kind, "full")
    try:
        created = kinds.create(path_of(kind, namespace), sent)
        assert missing(sent["spec"], created["spec"], kind.__name__) == []
        assert "status" not in created  # the server takes it by its own door only
        sent["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
        status, answer = kinds.request("PUT", path_of(kind, namespace, "full", "status"), sent)
        assert status == 200, answer
        assert missing(sent["status"], json.loads(answer)["status"], kind.__name__) == []
    finally:
        kinds.request("DELETE", path_of(kind, namespace, "full"))


@pytest.mark.parametrize("name", MADE_OF_DEFAULTS)
def test_defaults_fill_in_where_the_parent_is_there(kinds: ApiServer, name: str) -> None:
    """A sparse object gets the defaults of the parts it has, and none of those that it has not."""
    kind, (given, expected) = kind_named(name), MADE_OF_DEFAULTS[name]
    namespace = kinds.namespace()
    try:
        assert kinds.create(path_of(kind, namespace), sparse(name, "sparse", given))["spec"] == expected
    finally:
        kinds.request("DELETE", path_of(kind, namespace, "sparse"))


def test_a_switch_that_is_on_by_default_can_be_turned_off(kinds: ApiServer) -> None:
    """False is written although it is the zero value, and stays."""
    from ugallu.api.honeypot import HoneypotConfig, HoneypotConfigSpec

    for given in (True, False):
        config = HoneypotConfig(spec=HoneypotConfigSpec(emit_on_read=given)).with_metadata(name="switch")
        created = kinds.create(path_of(HoneypotConfig, ""), json.loads(encode(config)))
        kinds.request("DELETE", path_of(HoneypotConfig, "", "switch"))
        assert created["spec"]["emitOnRead"] is given


def test_what_nobody_knows_is_pruned_but_not_a_rules_test_event(kinds: ApiServer) -> None:
    """An unknown field vanishes, with a strict client it is refused; what a rule is tested with stays whole."""
    kind = kind_named("SigmaRule")
    event = {"kind": "Event", "verb": "get", "objectRef": {"resource": "pods"}}
    spec = {
        "enabled": True,
        "match": {"verb": ["get"], "colour": "red"},
        "emit": {"securityEventType": "ExecIntoPod", "severity": "high"},
        "tests": [{"name": "t", "expect": "hit", "event": event, "mood": 1}],
    }
    body = sparse("SigmaRule", "odd", spec)
    status, answer = kinds.request("POST", path_of(kind, "") + "?fieldValidation=Strict", body)
    assert status == 400
    assert b'unknown field \\"spec.match.colour\\"' in answer
    created = kinds.create(path_of(kind, ""), body)
    kinds.request("DELETE", path_of(kind, "", "odd"))
    assert created["spec"]["match"] == {"verb": ["get"]}
    assert created["spec"]["tests"] == [{"name": "t", "expect": "hit", "event": event}]
    assert created["spec"]["emit"]["class"] == "Detection"


def test_enums_and_bounds_refuse_with_the_path(kinds: ApiServer) -> None:
    """A value outside of its list or bounds never gets in, and the answer names the field."""
    namespace = kinds.namespace()
    event, webhooks, training = (
        kind_named(name) for name in ("SecurityEvent", "WebhookAuditorConfig", "SeccompTrainingRun")
    )
    body = document(event, "bad")
    body["spec"]["severity"] = "terrible"
    body["spec"]["subject"]["kind"] = "Spaceship"
    body["spec"]["signals"] = {str(number): "x" for number in range(129)}
    body["spec"]["subject"]["container"]["cgroupID"] = 2**63
    said = refused(kinds, event, namespace, body)
    for fragment in ("spec.severity", "spec.subject.kind", "spec.signals", "spec.subject.container.cgroupID"):
        assert fragment in said
    said = refused(kinds, webhooks, namespace, sparse("WebhookAuditorConfig", "bad", {"riskThreshold": 101}))
    assert "spec.riskThreshold" in said
    body = document(training, "bad")
    body["spec"] |= {"replicaRatio": 0, "defaultAction": "SCMP_ACT_SHRUG"}
    said = refused(kinds, training, namespace, body)
    assert "spec.replicaRatio" in said
    assert "spec.defaultAction" in said


def test_a_number_too_wide_is_stored_and_still_read(kinds: ApiServer) -> None:
    """The server holds nobody to 32 bits: what it stores, we decode, and clamp where it is used."""
    spec = {"consumers": [{"name": "a", "maxEventsPerSec": 2**40}, {"name": "b", "maxEventsPerSec": -5}]}
    created = kinds.create(path_of(AuditDetectionConfig, ""), sparse("AuditDetectionConfig", "wide", spec))
    kinds.request("DELETE", path_of(AuditDetectionConfig, "", "wide"))
    read = msgspec.convert(created, AuditDetectionConfig)
    assert [consumer.cap for consumer in read.spec.consumers] == [2**31 - 1, 0]


@pytest.mark.parametrize(
    "name", [kind.__name__ for kind in KINDS if kind.kind_info.spec_required or kind is GitopsResponderConfig]
)
def test_only_runs_and_their_results_need_a_spec(kinds: ApiServer, name: str) -> None:
    """The eight kinds that say so refuse an object without a spec; the others take it, as they always have."""
    kind, namespace = kind_named(name), kinds.namespace()
    status, _ = kinds.request(
        "POST",
        path_of(kind, namespace),
        {"apiVersion": API_VERSION, "kind": name, "metadata": {"name": "bare"}},
    )
    assert status == (422 if kind.kind_info.spec_required else 201)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_explain_has_our_words(kinds: ApiServer, kind: type[Resource]) -> None:
    """`kubectl explain` shows what the source says, of the kind and of what is in its spec."""
    words = " ".join(kinds.kubectl("explain", kind.kind_info.plural).split())
    assert " ".join((kind.__doc__ or "").split()) in words
    assert "<no description>" not in kinds.kubectl("explain", f"{kind.kind_info.plural}.spec", "--recursive=false")


def test_get_prints_the_columns_and_short_names_work(kinds: ApiServer) -> None:
    """`kubectl get se` is the dashboard; `csrun` means our scans, whatever `csr` means."""
    kinds.create(path_of(kind_named("SecurityEvent"), ""), document(kind_named("SecurityEvent"), "shown"))
    head, row = kinds.kubectl("get", "se", "shown").splitlines()
    assert head.split() == ["NAME", "CLASS", "TYPE", "SEVERITY", "PHASE", "SUBJECT", "AGE"]
    assert row.split()[:4] == ["shown", "Detection", "Ready", "critical"]
    assert kinds.kubectl("get", "securityevents", "-A", "-o", "name") == "securityevent.security.ugallu.io/shown\n"
    namespace = kinds.namespace()
    scan = kind_named("ComplianceScanRun")
    kinds.create(path_of(scan, namespace), document(scan, "scan"))
    head, row = kinds.kubectl("get", "csrun", "-n", namespace).splitlines()
    assert head.split() == ["NAME", "BACKEND", "PROFILE", "PHASE", "AGE"]
    assert row.split()[:2] == ["scan", "kube-bench"]
    assert "scan" not in kinds.kubectl("get", "csr")


def test_the_server_selects_by_field(kinds: ApiServer) -> None:
    """Who wants critical events asks for them, and does not list all."""
    kind = kind_named("SecurityEvent")
    for number, severity in enumerate(("critical", "low")):
        body = document(kind, f"pick-{number}")
        body["spec"] |= {"severity": severity, "correlationID": "select"}
        kinds.create(path_of(kind, ""), body)
    found = kinds.kubectl(
        "get", "se", "-o", "name", "--field-selector", "spec.severity=low,spec.correlationID=select"
    ).split()
    assert found == ["securityevent.security.ugallu.io/pick-1"]
    with pytest.raises(RigError, match="field label not supported"):
        kinds.kubectl("get", "se", "--field-selector", "spec.signals.a=b")


def test_client_side_apply_works_too(kinds: ApiServer) -> None:
    """The largest definition with its copy in an annotation fits into what the server takes."""
    for name in ("SecurityEvent", "SigmaRule"):
        kinds.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(crd(kind_named(name))))
