"""From a kind's Structs to its CustomResourceDefinition: a structural schema that says what decoding holds to.

What a field is comes from its type, what it means from the string under it, or else from its type's docstring. Which
defaults the schema names: those that are not the zero value, since absent and zero mean the same on this API (the few
others are marked in `ugallu.api.scalars`), and never a Struct, whose own fields have theirs.
"""

import ast
import enum
import inspect as source
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from ugallu.api.meta import Always, Atomic, Kind, Resource
from ugallu.errors import PermanentError

Schema = dict[str, Any]

MAX_DESCRIPTION: Final = 1024

_BOUNDS: Final = {
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}


def crd(kind: type[Resource]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind, in the order in which people read one."""
    info = kind.kind_info
    version: Schema = {
        "name": info.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(kind)},
        "subresources": {"status": {}},
    }
    if info.columns:
        version["additionalPrinterColumns"] = [
            {"name": column.name, "type": column.type, "jsonPath": column.path} for column in info.columns
        ]
    if info.selectable:
        version["selectableFields"] = [{"jsonPath": f".{path}"} for path in info.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{info.group}"},
        "spec": {
            "group": info.group,
            "names": _names(info),
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "versions": [version],
        },
    }


def _names(info: Kind) -> Schema:
    names: Schema = {
        "kind": info.name,
        "listKind": f"{info.name}List",
        "plural": info.plural,
        "singular": info.name.lower(),
    }
    return names | ({"shortNames": list(info.short_names)} if info.short_names else {})


def _root(kind: type[Resource]) -> Schema:
    schema = _struct(kind)
    envelope: Schema = {
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "Kind of this object."},
        "metadata": {"type": "object"},
    }
    schema["properties"] = envelope | {
        name: part for name, part in schema["properties"].items() if name not in envelope
    }
    schema.pop("required", None)
    return schema | ({"required": ["spec"]} if kind.kind_info.spec_required else {})


def _struct(cls: type[Any]) -> Schema:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    words = field_words(cls)
    schema: Schema = {"type": "object", "description": meaning(cls)}
    if required := sorted(field.encode_name for field in info.fields if _required(field)):
        schema["required"] = required
    if issubclass(cls, Atomic):
        schema["x-kubernetes-map-type"] = "atomic"
    schema["properties"] = {
        field.encode_name: _field(field, words.get(field.name, ""), f"{cls.__name__}.{field.name}")
        for field in info.fields
    }
    return schema


def _required(field: inspect.Field) -> bool:
    return field.default_factory.required if isinstance(field.default_factory, Always) else field.required


def _field(field: inspect.Field, words: str, where: str) -> Schema:
    schema = _schema(field.type, where)
    if words:
        schema["description"] = words
    default = field.default
    if isinstance(field.default_factory, Always):
        default = field.default_factory.value
    if _is_plain(default) and default:
        schema["default"] = msgspec.json.decode(msgspec.json.encode(default))
    return schema


def _is_plain(value: object) -> bool:
    """Whether the value is text, a number, a switch, or a list of such."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | enum.Enum)


def _schema(info: inspect.Type, where: str) -> Schema:
    match info:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            schema = _schema(inner, where) | (extra or {})
            if "enum" in schema:
                schema.pop("pattern", None)
            return schema
        case inspect.UnionType(types=types):
            return _union([option for option in types if not isinstance(option, inspect.NoneType)], where)
        case inspect.StructType(cls=cls):
            return _struct(cls)
        case inspect.EnumType(cls=cls):
            return {"type": "string", "enum": [member.value for member in cls]}
        case inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _schema(item, where)}
        case inspect.DictType(value_type=inspect.AnyType()):
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        case inspect.DictType(value_type=item, max_length=most):
            limit: Schema = {} if most is None else {"maxProperties": most}
            return {"type": "object", "additionalProperties": _schema(item, where)} | limit
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case inspect.BytesType():
            return {"type": "string", "format": "byte"}
        case inspect.StrType() | inspect.IntType() | inspect.FloatType():
            kind = {"StrType": "string", "IntType": "integer", "FloatType": "number"}[type(info).__name__]
            bounds = {name: getattr(info, ours, None) for ours, name in _BOUNDS.items()}
            return {"type": kind, **{name: bound for name, bound in bounds.items() if bound is not None}}
    raise PermanentError(f"no schema for {info}", where=where, fix="use a type that ugallu.api.crd knows")


def _union(options: list[inspect.Type], where: str) -> Schema:
    if len(options) == 1:
        return _schema(options[0], where)
    if sorted(type(option).__name__ for option in options) != ["IntType", "StrType"]:
        raise PermanentError(f"no schema for one of {options}", where=where, fix="choose one type")
    text = next(option for option in options if isinstance(option, inspect.StrType))
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": text.pattern,
        "x-kubernetes-int-or-string": True,
    }


def meaning(cls: type[Any]) -> str:
    """Return the docstring of a Struct as running text."""
    return _running(cls.__doc__ or "")


def field_words(cls: type[Any]) -> dict[str, str]:
    """Return what the strings under the fields of a Struct say, inherited ones included, by the fields' names here."""
    words: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        if issubclass(ancestor, msgspec.Struct) and ancestor.__module__ != "msgspec":
            words |= _written(ancestor.__module__).get(ancestor.__name__, {})
    return words


@cache
def _written(module: str) -> dict[str, dict[str, str]]:
    """Read the source of a module: the only place where the string under a field is kept."""
    import sys

    tree = ast.parse(source.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    fields[name] = _running(text)
    return found


def _running(text: str) -> str:
    return " ".join(source.cleandoc(text).split())[:MAX_DESCRIPTION]
