"""Objects as JSON values: what is stored, merged and compared here, whatever Struct a caller reads it with.

Only this package handles objects untyped, because a store must keep fields that one reader's Struct leaves out.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from ugallu.api.meta import Kind, Resource
from ugallu.cluster.port import InvalidError

Document: TypeAlias = dict[str, Any]

_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def parse(body: bytes) -> Document:
    """Return the document of a stored body."""
    return _decode(body)


def render(document: Document) -> bytes:
    """Return the body to store."""
    return msgspec.json.encode(document)


def plain(value: Mapping[str, Any] | Resource) -> Document:
    """Return a patch or a Struct as JSON values, or raise `InvalidError`."""
    try:
        # To bytes and back: a list is a list then, whatever sequence the Struct has.
        document = _decode(msgspec.json.encode(value))
    except (RecursionError, TypeError, UnicodeEncodeError, OverflowError, msgspec.DecodeError) as error:
        raise InvalidError(f"cannot be written as JSON: {error}") from error
    return document


def document_of(resource: Resource) -> Document:
    """Return a Struct as a document, with `apiVersion` and `kind`."""
    kind = type(resource).kind_info
    return {"apiVersion": kind.api_version, "kind": kind.name, **plain(resource)}


def same(one: Document, other: Document) -> bool:
    """Tell whether two documents are the same JSON: to Python, `true` equals 1."""
    return one == other and _sorted(one) == _sorted(other)


def depth(value: Any) -> int:  # noqa: ANN401 - any JSON value
    """Return how many objects and lists contain one another."""
    level, found = [value], -1
    while level:
        found += 1
        level = [
            part
            for holder in level
            if isinstance(holder, dict | list)
            for part in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return found


def type_key(kind: Kind) -> str:
    """Return what identifies a kind across versions: `group/Kind`."""
    return f"{kind.group}/{kind.name}"


def place(kind: Kind, namespace: str, name: str) -> str:
    """Return how messages name an object."""
    return f"{kind.plural}/{namespace}/{name}" if namespace else f"{kind.plural}/{name}"


def value_at(document: Document, path: str) -> str:
    """Return the value at a dotted path as a field selector sees it; empty when it is absent or no scalar."""
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ""
