"""What a kind's schema does to an object besides refusing types: fill in defaults, insist on required fields.

Both apply only where the parent object is present, as on an API server. The schema is the one that
`ugallu.api.crd` generates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from ugallu.api.crd import crd
from ugallu.api.meta import Resource
from ugallu.cluster.embedded.document import Document

_Fill = Callable[[Any, str], Any]
"""From a value and its path to the value with defaults; raises `MissingError`."""


class MissingError(Exception):
    """A required field is not there; carries its path."""


def filler(kind: type[Resource]) -> Callable[[Document], Document]:
    """Return a function from a document to the same with its defaults; it raises `MissingError`."""
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fill = _fill(schema, inspect.type_info(kind))
    return lambda document: document if fill is None else fill(document, "")


def _fill(schema: Mapping[str, Any], info: inspect.Type) -> _Fill | None:
    """Compile a schema; None when nothing below it has a default, or is required although its Struct has one."""
    match info:
        case inspect.Metadata(type=inner):
            return _fill(schema, inner)
        case inspect.UnionType(types=types):
            options = [option for option in types if not isinstance(option, inspect.NoneType)]
            return _fill(schema, options[0]) if len(options) == 1 else None
        case inspect.VarTupleType(item_type=item):
            return _fill_list(_fill(schema["items"], item))
        case inspect.DictType(value_type=item) if "additionalProperties" in schema:
            return _fill_map(_fill(schema["additionalProperties"], item))
        case inspect.StructType(fields=fields):
            return _fill_struct(schema, fields)
    return None


def _fill_struct(schema: Mapping[str, Any], fields: Sequence[inspect.Field]) -> _Fill | None:
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    types = {field.encode_name: field.type for field in fields if field.encode_name in properties}
    inner = {name: fill for name, info in types.items() if (fill := _fill(properties[name], info)) is not None}
    defaults = {name: msgspec.json.encode(part["default"]) for name, part in properties.items() if "default" in part}
    # Decoding asks for those that have no default in code.
    optional = {field.encode_name for field in fields if not field.required}
    required = tuple(name for name in schema.get("required", ()) if name in optional)
    if not inner and not defaults and not required:
        return None

    def fill_object(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
        if not isinstance(value, dict):
            return value
        filled = dict(value)
        for name, default in defaults.items():
            if name not in filled:
                filled[name] = msgspec.json.decode(default)
        for name in required:
            if name not in filled:
                raise MissingError(f"{path}{name}")
        for name, fill in inner.items():
            if name in filled:
                filled[name] = fill(filled[name], f"{path}{name}.")
        return filled

    return fill_object


def _fill_list(inner: _Fill | None) -> _Fill | None:
    if inner is None:
        return None
    return lambda value, path: [inner(part, path) for part in value] if isinstance(value, list) else value


def _fill_map(inner: _Fill | None) -> _Fill | None:
    if inner is None:
        return None
    return lambda value, path: (
        {key: inner(part, f"{path}{key}.") for key, part in value.items()} if isinstance(value, dict) else value
    )
