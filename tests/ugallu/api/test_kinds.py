"""Objects of every kind over the wire: what is written is read back, what is wrong is named, what is on stays on."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.bundle import SigningMode
from ugallu.api.crd import crd
from ugallu.api.detection import AuditDetectionConsumer
from ugallu.api.dns import DNSDetectConfig, DNSDetectConfigSpec
from ugallu.api.forensics import ForensicsConfigSpec, ForensicsTrigger
from ugallu.api.honeypot import HoneypotConfigSpec
from ugallu.api.kinds import KINDS
from ugallu.api.meta import Condition, Config, Resource, decode_strict, encode
from ugallu.api.platform import RekorConfig, TTLConfig, TTLConfigSpec, WORMConfigSpec
from ugallu.api.snapshots import ContainerSubject, PodRef, PodSubject, SecretSubject, WorkloadSubject
from ugallu.api.subject import ExternalKind, Subject, external
from ugallu.errors import PermanentError
from ugallu.testing.invented import filled, values

RUNS_ON_DEFAULTS = ("AuditDetectionConfig", "DNSDetectConfig", "HoneypotConfig", "WebhookAuditorConfig")


def wire(value: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(value))
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_object_survives_the_wire(kind: type[Resource]) -> None:
    """Whatever an object of the kind holds, decoding what we encode gives the same object, strictly too."""

    @settings(max_examples=25)
    @given(values(kind))
    def check(value: Resource) -> None:
        assert msgspec.json.decode(encode(value), type=kind) == value
        assert decode_strict(kind, encode(value)) == value

    check()
    assert msgspec.json.decode(encode(filled(kind)), type=kind) == filled(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_strict_decoding_names_the_field_that_it_does_not_know(kind: type[Resource]) -> None:
    """A misspelt field, however deep inside, is refused with its path; an API server's reply is read all the same."""
    body = wire(filled(kind))
    for path, part in objects_in(kind, body):
        part["mispelt"] = 1
        with pytest.raises(PermanentError, match=re.escape(f"unknown field {path}mispelt")):
            decode_strict(kind, body)
        assert msgspec.convert(body, kind) == filled(kind)
        del part["mispelt"]


def objects_in(kind: type[Resource], body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects inside of one whose fields the schema lists, with their paths; of each struct one."""
    seen: set[tuple[str, ...]] = set()

    def visit(schema: dict[str, Any], value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        fields = tuple(schema.get("properties", ()))
        if fields in seen:
            return
        if fields and path:
            seen.add(fields)
            yield f"{path}.", value
        for name, part in schema.get("properties", {}).items():
            if name in value and name != "metadata":
                yield from visit(part, value[name], f"{path}.{name}" if path else name)
        if "items" in schema:
            yield from visit(schema["items"], value[0], f"{path}[0]")
        if "additionalProperties" in schema:
            yield from visit(schema["additionalProperties"], value["key"], f"{path}.key")

    version = crd(kind)["spec"]["versions"][0]
    yield from visit(version["schema"]["openAPIV3Schema"], body, "")


def test_a_bad_duration_costs_no_object() -> None:
    """What a server stores is decoded, so one duration that nobody can read does not hide the object it stands in."""
    good, odd = wire(filled(TTLConfig)), wire(filled(TTLConfig))
    odd["spec"]["defaults"]["securityEvent"]["info"] = "soon"
    assert msgspec.convert(odd, TTLConfig).spec.defaults.security_event.info == "soon"
    good["spec"]["worker"] = {"poolSize": "many"}
    with pytest.raises(msgspec.ValidationError, match=re.escape("$.spec.worker.poolSize")):
        msgspec.convert(good, TTLConfig)


def test_a_switch_that_is_on_by_default_is_always_written() -> None:
    """False differs from absent, so it is on the wire, and so is True: whoever reads need not know the default."""
    for given_ in (True, False):
        assert wire(HoneypotConfigSpec(emit_on_read=given_))["emitOnRead"] is given_
        assert wire(RekorConfig(enabled=given_, url="u"))["enabled"] is given_
        assert wire(TTLConfigSpec(archive_snapshot_enabled=given_))["archiveSnapshotEnabled"] is given_
        assert wire(ForensicsTrigger(require_attested=given_))["requireAttested"] is given_
        assert wire(WORMConfigSpec(endpoint="e", bucket="b", use_path_style=given_))["usePathStyle"] is given_
    snapshot = wire(ForensicsConfigSpec())["snapshot"]
    assert snapshot == {"filesystemSnapshot": True}


def test_every_switch_that_is_on_by_default_is_written() -> None:
    """No Struct of the API has a switch whose False could not be told from an absent one by another client."""
    silent = []
    for kind in KINDS:
        for found in structs_in(kind):
            info = msgspec.inspect.type_info(found)
            assert isinstance(info, msgspec.inspect.StructType)
            silent += [f"{found.__name__}.{field.name}" for field in info.fields if field.default is True]
    assert silent == []


def structs_in(cls: type[Any]) -> set[type[Any]]:
    """Every Struct that a Struct reaches."""
    found: set[type[Any]] = set()

    def visit(info: msgspec.inspect.Type) -> None:
        if isinstance(info, msgspec.inspect.StructType) and info.cls not in found:
            found.add(info.cls)
            for field in info.fields:
                visit(field.type)
        for name in ("type", "item_type", "value_type"):
            if isinstance(inner := getattr(info, name, None), msgspec.inspect.Type):
                visit(inner)
        for option in getattr(info, "types", ()):
            visit(option)

    visit(msgspec.inspect.type_info(cls))
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_operator_decodes_its_settings_from_the_spec(kind: type[Resource]) -> None:
    """The spec of every config kind is what a cell hands to its operator; four of them may be absent altogether."""
    spec = next(field.type for field in msgspec.structs.fields(kind) if field.name == "spec")
    is_config = kind.__name__.endswith("Config") or kind.__name__ == "TenantBoundary"
    assert issubclass(spec, Config) == is_config
    if kind.__name__ in RUNS_ON_DEFAULTS:
        assert msgspec.convert({}, kind).metadata.name == ""


def test_an_absent_part_means_the_same_as_an_empty_one() -> None:
    """An API server fills in defaults only where the parent is there; without one, ours are the same."""
    parts = ("exfiltration", "tunneling", "blocklist", "youngDomain", "anomalousPort")
    sparse: dict[str, Any] = {"source": {}, "detectors": {part: {} for part in parts}}
    assert msgspec.convert(sparse, DNSDetectConfigSpec) == DNSDetectConfig().spec
    assert DNSDetectConfig().spec.detectors.exfiltration.min_label_len == 60


def test_a_signing_mode_has_one_full_name() -> None:
    """The short names may be asked for; a status carries the full one."""
    assert SigningMode("fulcio").canonical is SigningMode.FULCIO_KEYLESS
    assert SigningMode("openbao").canonical is SigningMode.OPENBAO_TRANSIT
    assert SigningMode("dual").canonical is SigningMode.DUAL


def test_a_condition_always_says_when() -> None:
    """The server insists on a transition time, so none is left out, not even the earliest."""
    condition = Condition(type="Ready", status="True", reason="Fine")
    assert wire(condition) == {
        "type": "Ready",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }


@given(st.integers())
def test_what_the_wire_cannot_carry_is_clamped(number: int) -> None:
    """An id of 64 bits without sign, or a cap below zero, neither loses the event nor stops the operator."""
    container = ContainerSubject(pod_ref=PodRef(namespace="n", name="p"), container_name="c", cgroup_id=number)
    assert container.cgroup_id is not None
    assert 0 <= container.cgroup_id <= 2**63 - 1
    assert 0 <= AuditDetectionConsumer(name="a", max_events_per_sec=number).cap <= 2**31 - 1
    if 0 <= number < 2**31:
        assert container.cgroup_id == number == AuditDetectionConsumer(name="a", max_events_per_sec=number).cap


def test_a_subject_says_why_admission_would_refuse_it() -> None:
    """Exactly one discriminator, of its own kind, or `unresolved`: whatever else it is, `fault` has the reason."""
    pod = PodSubject(node_name="n")
    assert Subject(kind="Pod", name="p", pod=pod).fault == ""
    assert Subject(kind="Pod", name="p", unresolved=True).fault == ""
    assert external(ExternalKind.USER, "jane").fault == ""
    assert Subject(kind="Deployment", name="d", workload=WorkloadSubject(kind="Deployment")).fault == ""
    assert "neither pod is filled" in Subject(kind="Pod", name="p").fault
    assert "secret" in Subject(kind="Pod", name="p", pod=pod, secret=SecretSubject()).fault
    assert "secret" in Subject(kind="Pod", name="p", unresolved=True, secret=SecretSubject()).fault
    assert "StatefulSet" in Subject(kind="Deployment", name="d", workload=WorkloadSubject(kind="StatefulSet")).fault
    assert "none of the 29" in Subject(kind="Spaceship", name="s").fault


def test_the_kinds_of_subjects_are_closed() -> None:
    """A kind outside of the list never gets in, here no more than at an API server."""
    with pytest.raises(msgspec.ValidationError, match=re.escape("$.kind")):
        msgspec.convert({"kind": "Spaceship", "name": "s"}, Subject)


def test_a_duration_that_is_none_is_refused_where_a_person_wrote_it() -> None:
    """The cell of an operator sets Ready to False with the path, and rules do not load; readers of lists are tolerant."""
    body = wire(filled(TTLConfig))
    body["spec"]["postpone"]["maxDelay"] = "soon"
    with pytest.raises(PermanentError, match=re.escape("spec.postpone.maxDelay: 'soon' is no duration")) as caught:
        decode_strict(TTLConfig, body, where="ttl.yaml")
    assert caught.value.where == "ttl.yaml"
    body["spec"]["postpone"]["maxDelay"] = ""
    assert decode_strict(TTLConfig, body).spec.postpone is not None
