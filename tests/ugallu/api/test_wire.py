"""The Structs against the wire contract: every field, its type, what is required, every enum, field for field."""

import datetime as dt
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from ugallu.api import bundle, detection, event, sigma
from ugallu.api.meta import GROUP, VERSION, Resource

SHEET = yaml.safe_load((Path(__file__).parents[2] / "data" / "api" / "api-fields.yaml").read_text())
KINDS: dict[str, type[Resource]] = {
    cls.kind_info.name: cls
    for cls in (event.SecurityEvent, bundle.AttestationBundle, sigma.SigmaRule, detection.AuditDetectionConfig)
}
PATTERN_ENUMS = frozenset({"AuditVerb", "SubjectKind"})
"""Enums that our Structs keep as plain text: a rule's verbs are globs, a subject's kind is checked by the emitter."""


def unwrapped(info: inspect.Type) -> inspect.Type:
    """The type beside None."""
    if isinstance(info, inspect.UnionType):
        rest = [option for option in info.types if not isinstance(option, inspect.NoneType)]
        return rest[0] if len(rest) == 1 else info
    return info


def faults(info: inspect.Type, said: dict[str, Any], path: str, known: dict[str, type]) -> Iterator[str]:
    """Yield what differs between one of our types and a descriptor of the sheet."""
    info = unwrapped(info)
    kind = said["type"]
    if kind == "string":
        is_time = isinstance(info, inspect.DateTimeType)
        if not (is_time or isinstance(info, inspect.StrType | inspect.EnumType)):
            yield f"{path}: string on the wire, {info} here"
        if said.get("format") == "date-time" and not is_time:
            yield f"{path}: a time on the wire"
        yield from enum_faults(info, said.get("enum"), path)
    elif kind in ("integer", "number", "boolean"):
        expect = {"integer": inspect.IntType, "number": inspect.FloatType, "boolean": inspect.BoolType}[kind]
        if type(info) is not expect:
            yield f"{path}: {kind} on the wire, {info} here"
    elif kind == "array":
        if not isinstance(info, inspect.VarTupleType | inspect.ListType):
            yield f"{path}: an array on the wire, {info} here"
        else:
            yield from faults(info.item_type, said["items"], f"{path}[]", known)
    elif kind == "map":
        if not isinstance(info, inspect.DictType):
            yield f"{path}: a map on the wire, {info} here"
        elif said["values"]["type"] != "quantity":
            yield from faults(info.value_type, said["values"], f"{path}{{}}", known)
    elif kind == "object" and "ref" in said:
        if not isinstance(info, inspect.StructType):
            yield f"{path}: {said['ref']} on the wire, {info} here"
        else:
            yield from struct_faults(info.cls, said["ref"], path, known)
    elif kind == "object" and not isinstance(info, inspect.StructType | inspect.DictType | inspect.AnyType):
        yield f"{path}: an object on the wire, {info} here"


def enum_faults(info: inspect.Type, name: str | None, path: str) -> Iterator[str]:
    if name is None or name in PATTERN_ENUMS:
        return
    if not isinstance(info, inspect.EnumType):
        yield f"{path}: enum {name} on the wire, {info} here"
        return
    assert issubclass(info.cls, enum.Enum)
    ours = {member.value for member in info.cls}
    aliases = SHEET["enumAliases"].get(name, {})
    if missing := {aliases.get(value, value) for value in SHEET["enums"][name]} - ours:
        yield f"{path}: {sorted(missing)} of {name} missing"


def struct_faults(cls: type, name: str, path: str, known: dict[str, type]) -> Iterator[str]:
    if known.setdefault(name, cls) is not cls:
        yield f"{path}: {name} has two Structs, {known[name].__name__} and {cls.__name__}"
        return
    ours = {field.encode_name: field for field in inspect.type_info(cls).fields}  # type: ignore[attr-defined]
    for wire, said in SHEET["structs"][name].items():
        here = f"{path}.{wire}"
        field = ours.get(wire)
        if field is None:
            yield f"{here}: missing in {cls.__name__}"
            continue
        # What the schema requires is always written: it has no default, or one that is written all the same.
        written = field.required or field.default_factory is not msgspec.NODEFAULT
        if said.get("required") and not written:
            yield f"{here}: required on the wire, may be left out by {cls.__name__}"
        if not said.get("required") and field.required:
            yield f"{here}: optional on the wire, required by {cls.__name__}"
        yield from faults(field.type, said, here, known)


@pytest.mark.parametrize("name", SHEET["kinds"])
def test_a_kind_has_the_coordinates_of_the_sheet(name: str) -> None:
    """A client that knows the contract finds our kinds under its paths and short names."""
    said, ours = SHEET["kinds"][name], KINDS[name].kind_info
    assert (ours.name, ours.plural, ours.group, ours.version) == (
        name,
        said["plural"],
        SHEET["group"],
        SHEET["version"],
    )
    assert list(ours.short_names) == said["shortNames"]
    assert ours.namespaced == (said["scope"] == "Namespaced")
    assert (SHEET["group"], SHEET["version"]) == (GROUP, VERSION)


@pytest.mark.parametrize("name", SHEET["kinds"])
def test_every_field_is_there_with_its_type(name: str) -> None:
    """Names, types, what is required, enums: down through every nested struct."""
    fields = {field.name: field.type for field in msgspec.structs.fields(KINDS[name])}
    known: dict[str, type] = {}
    found: list[str] = []
    for part in ("spec", "status"):
        found += struct_faults(fields[part], SHEET["kinds"][name][part], f"{name}.{part}", known)
    assert found == []


def test_extensions_are_optional() -> None:
    """What we add to a struct may be absent: an older client's objects stay valid."""
    known: dict[str, type] = {}
    for name, kind in KINDS.items():
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        for part in ("spec", "status"):
            list(struct_faults(fields[part], SHEET["kinds"][name][part], name, known))
    for name, cls in known.items():
        for field in inspect.type_info(cls).fields:  # type: ignore[attr-defined]
            if field.encode_name not in SHEET["structs"][name]:
                assert not field.required, f"{name}.{field.encode_name}"


def test_times_are_rfc_3339_in_utc() -> None:
    """A time goes out as an API server writes it."""
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    failure = bundle.PipelineFailure(stage="sign", timestamp=moment)
    assert msgspec.json.decode(msgspec.json.encode(failure))["timestamp"] == "2026-01-02T03:04:05Z"
