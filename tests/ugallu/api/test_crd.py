"""The CustomResourceDefinitions against the frozen wire contract, field by field."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ugallu.api.crd import MAX_DESCRIPTION, crd, field_words
from ugallu.api.kinds import KIND_ALIASES, KINDS
from ugallu.api.meta import Kind, Resource, Wire
from ugallu.errors import PermanentError
from ugallu.testing.api_contract import contract

SAID = contract().document
ANNOTATION_LIMIT = 262_144
LARGE = ("SecurityEvent", "SigmaRule")
"""Kinds with more than 32 kB of schema."""


def version_of(kind: type[Resource]) -> dict[str, Any]:
    version: dict[str, Any] = crd(kind)["spec"]["versions"][0]
    return version


def schema_of(kind: type[Resource]) -> dict[str, Any]:
    schema: dict[str, Any] = version_of(kind)["schema"]["openAPIV3Schema"]
    return schema


def differences(ours: Any, said: Any, path: str) -> Iterator[str]:
    """Yield where two schemas differ; a description is not part of the contract, the order of a set neither."""
    if not isinstance(ours, dict) or not isinstance(said, dict):
        alike = sorted(ours) == sorted(said) if path.endswith(("required", "enum")) else ours == said
        if not alike or type(ours) is not type(said):
            yield f"{path}: {ours!r} here, {said!r} promised"
        return
    is_schema = not path.endswith("properties")
    for key in sorted(ours.keys() | said.keys()):
        if key == "description" and is_schema:
            continue
        if key not in ours:
            yield f"{path}.{key}: missing here, {said[key]!r} promised"
        elif key not in said:
            yield f"{path}.{key}: {ours[key]!r} here, never promised"
        else:
            yield from differences(ours[key], said[key], f"{path}.{key}")


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema inside of one, with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from nodes(schema[word], f"{path}[]")


def test_the_kinds_are_those_promised_in_their_order() -> None:
    """22 kinds, none more, and every list that is generated has the same order."""
    assert [kind.kind_info.name for kind in KINDS] == list(SAID["kinds"])
    assert SAID["kindAliases"] == KIND_ALIASES


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_names_scope_columns(kind: type[Resource]) -> None:
    """Paths, short names and what `kubectl get` prints are what users and scripts know."""
    said, spec = SAID["kinds"][kind.kind_info.name], crd(kind)["spec"]
    assert crd(kind)["metadata"]["name"] == f"{said['plural']}.{SAID['group']}"
    assert spec["group"] == SAID["group"]
    assert spec["names"] == {
        "kind": kind.kind_info.name,
        **{name: said[name] for name in ("listKind", "plural", "singular", "shortNames")},
    }
    assert spec["scope"] == said["scope"]
    assert len(spec["versions"]) == 1
    version = spec["versions"][0]
    assert (version["name"], version["served"], version["storage"]) == (SAID["version"], True, True)
    assert version["subresources"] == {"status": {}}
    columns = [[column["name"], column["type"], column["jsonPath"]] for column in version["additionalPrinterColumns"]]
    assert columns == said["columns"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_as_promised(kind: type[Resource]) -> None:
    """Types, formats, enums, bounds, defaults, what is required, list and map types: down through every struct."""
    said, ours = SAID["kinds"][kind.kind_info.name], schema_of(kind)
    assert list(ours["properties"]) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert ours.get("required", []) == said["rootRequired"]
    found: list[str] = []
    for part in ("spec", "status"):
        found += differences(ours["properties"][part], contract().struct(said[part]), f"{kind.__name__}.{part}")
    assert found == []


def test_additions_may_be_absent() -> None:
    """Whoever wrote an object before a field was added wrote a valid object."""
    required = [
        f"{struct}.{field}"
        for struct, fields in SAID["additions"].items()
        for field, said in fields.items()
        if said.get("required") or field in SAID["structs"][struct]
    ]
    assert required == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_everything_is_explained(kind: type[Resource]) -> None:
    """`kubectl explain` has a sentence for every field, short enough to be read."""
    schema = schema_of(kind)
    silent = [
        path
        for path, node in nodes(schema)
        if not path.endswith("[]") and path != ".metadata" and not node.get("description")
    ]
    assert silent == []
    # The longest is cut off at the bound; reaching it means that a sentence lost its end.
    assert [path for path, node in nodes(schema) if len(node.get("description", "")) >= MAX_DESCRIPTION] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_server_can_select_by_what_we_say(kind: type[Resource]) -> None:
    """A selectable field exists, is a scalar outside of lists, and there are eight at most: else the kind is refused."""
    selectable = version_of(kind).get("selectableFields", [])
    assert len(selectable) <= 8
    for entry in selectable:
        node = schema_of(kind)
        for name in entry["jsonPath"].removeprefix(".").split("."):
            node = node["properties"][name]
        assert node["type"] in ("string", "boolean", "integer")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_definition_fits_the_annotation_of_kubectl_apply(kind: type[Resource]) -> None:
    """Client-side apply keeps a second copy in an annotation, which may have 256 KiB with all others."""
    size = len(json.dumps(crd(kind)).encode())
    assert size < ANNOTATION_LIMIT * 3 // 4
    assert size < 32_768 or kind.__name__ in LARGE


def test_only_other_apis_objects_stay_unpruned() -> None:
    """A rule's test events are the one place that keeps unknown fields."""
    free = [
        f"{kind.__name__}{path}"
        for kind in KINDS
        for path, node in nodes(schema_of(kind))
        if node.get("x-kubernetes-preserve-unknown-fields")
    ]
    assert free == ["SigmaRule.spec.tests[].event", "SigmaRule.spec.tests[].before[]"]


def test_a_short_name_that_nobody_else_has() -> None:
    """`csr` means certificate signing requests to kubectl; `csrun` is ours alone, and no two kinds share a name."""
    names = [name for kind in KINDS for name in kind.kind_info.short_names]
    assert "csrun" in names
    assert len(set(names)) == len(names)


def test_words_come_from_under_the_fields() -> None:
    """A field's sentence stands in the source under it; an inherited field brings its own along."""

    class Parent(Wire, frozen=True, kw_only=True):
        """A parent."""

        one: str = ""

    assert field_words(Parent) == {}  # a class inside of a function has no place that is read
    from ugallu.api.detection import AuditDetectionConfigStatus

    words = field_words(AuditDetectionConfigStatus)
    assert words["consumers_connected"] == "Live subscriber count."
    assert words["last_config_load_at"] == "When the settings were read last with success."


class Odd(Resource, frozen=True, kw_only=True):
    """A kind that no schema can express."""

    kind_info = Kind("Odd", "odds")
    spec: str | list[str] = ""


class Complex(Resource, frozen=True, kw_only=True):
    """Another one."""

    kind_info = Kind("Complex", "complexes")
    spec: set[int] = msgspec.field(default_factory=set)


@pytest.mark.parametrize("kind", [Odd, Complex])
def test_what_has_no_schema_is_refused_by_name(kind: type[Resource]) -> None:
    """A plug-in author reads which field cannot be written down, instead of getting a schema that lets all pass."""
    with pytest.raises(PermanentError, match=rf"no schema .*{kind.__name__}\.spec|{kind.__name__}\.spec"):
        crd(kind)
