"""What may be stored: unknown fields are pruned, defaults filled in, then checks may refuse, and policies last.

A check sees one `Review` and raises `InvalidError` or `ForbiddenError`; the store knows nothing of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ugallu.api.kinds import KINDS
from ugallu.api.meta import Kind, Metadata, Resource
from ugallu.cluster.embedded.document import Document, depth, place, render, type_key
from ugallu.cluster.embedded.names import faults, is_namespace
from ugallu.cluster.embedded.policies import Lookup, Policies, Request, User
from ugallu.cluster.embedded.schema import MissingError, filler
from ugallu.cluster.port import InvalidError

MAX_BYTES: Final = 3 << 19
"""Size of one object, 1.5 MiB: what etcd takes in one request."""
MAX_DEPTH: Final = 100
"""Objects and lists inside one another: far beyond any schema, and decoders recurse."""


class Review(msgspec.Struct, frozen=True):
    """One write as the checks see it. `verb` is create or update; `old` is None on create."""

    verb: str
    kind: Kind
    schema: type[Resource]
    object: Document
    old: Document | None = None
    subresource: str = ""

    @property
    def where(self) -> str:
        """The object's name in messages."""
        metadata = self.object["metadata"]
        return place(self.kind, metadata.get("namespace", ""), metadata.get("name", ""))


Check = Callable[[Review], None]


def check_schema(review: Review) -> None:
    """Refuse what the type would not decode; the message names the path."""
    try:
        msgspec.convert(review.object, review.schema)
    except msgspec.ValidationError as error:
        raise InvalidError(str(error), where=review.where, fix="see the field's description") from error


def check_metadata(review: Review) -> None:
    """Refuse names, labels and the like that Kubernetes would refuse; what is as it was has passed before."""
    if review.old is not None and review.object["metadata"] == review.old["metadata"]:
        return
    fault = next(faults(review.object["metadata"]), None)
    if fault is not None:
        raise InvalidError(fault, where=review.where)


def check_scope(review: Review) -> None:
    """Refuse an object without the namespace its kind needs, or with one it cannot have."""
    namespace = review.object["metadata"].get("namespace", "")
    check_namespace(review.kind, namespace, review.where)


def check_size(review: Review) -> None:
    """Refuse an object larger than etcd takes, or so deep that a reader could fail on it."""
    body = render(review.object)
    if len(body) > MAX_BYTES:
        raise InvalidError(
            f"{len(body)} bytes, at most {MAX_BYTES} fit", where=review.where, fix="make the object smaller"
        )
    # Brackets are at least as many as levels, and faster to count.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and depth(review.object) > MAX_DEPTH:
        raise InvalidError(f"nested deeper than {MAX_DEPTH}", where=review.where, fix="flatten the object")


CHECKS: Final[tuple[Check, ...]] = (check_schema, check_metadata, check_scope, check_size)


def check_namespace(kind: Kind, namespace: str, where: str) -> None:
    """Refuse a namespace that does not fit the kind's scope."""
    if kind.namespaced and not namespace:
        raise InvalidError(f"a namespace is required: {kind.name} is namespaced", where=where)
    if namespace and not kind.namespaced:
        raise InvalidError(f"namespace {namespace!r} given, but {kind.name} has none", where=where)
    if namespace and not is_namespace(namespace):
        raise InvalidError(f"{namespace!r} is no namespace name", where=where)


class Writer(msgspec.Struct, frozen=True):
    """Who writes through which Struct, and how to look up what a policy refers to."""

    kind: type[Resource]
    user: User
    lookup: Lookup


class Admission:
    """Schemas by kind, a chain of checks, and policies.

    A kind without a schema of its own keeps unknown fields, and must fit the Struct that the writer uses.
    """

    def __init__(
        self, schemas: Iterable[type[Resource]], policies: Policies | None = None, checks: Sequence[Check] = CHECKS
    ) -> None:
        self._schemas = {type_key(schema.kind_info): schema for schema in schemas}
        self._pruners: dict[str, _Prune | None] = {}
        self._fillers: dict[str, Callable[[Document], Document] | None] = {}
        self._prune_metadata = _pruner(msgspec.inspect.type_info(Metadata))
        self._checks = tuple(checks)
        self._policies = policies or Policies()

    def admit(
        self, verb: str, writer: Writer, new: Document, old: Document | None = None, subresource: str = ""
    ) -> Document:
        """Return the document pruned and with defaults, or raise what a check or a policy says."""
        kind = writer.kind.kind_info
        new = self._fill(kind, self.prune(writer.kind, new))
        review = Review(verb, kind, self._schemas.get(type_key(kind), writer.kind), new, old, subresource)
        for check in self._checks:
            check(review)
        self._judge(verb, writer, new, old, subresource)
        return new

    def dismiss(self, writer: Writer, old: Document) -> None:
        """Raise what a policy says to the deletion of an object."""
        self._judge("delete", writer, None, old, "")

    def _judge(self, verb: str, writer: Writer, new: Document | None, old: Document | None, subresource: str) -> None:
        kind, metadata = writer.kind.kind_info, (new or old or {})["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        request = Request(verb, kind, subresource, writer.user, namespace, name, new, old)
        self._policies.judge(request, writer.lookup)

    def _fill(self, kind: Kind, document: Document) -> Document:
        """Return the document with the defaults of its schema; raise where a required field is missing."""
        key = type_key(kind)
        if key not in self._fillers:
            schema = self._schemas.get(key)
            self._fillers[key] = filler(schema) if schema in KINDS else None
        fill = self._fillers[key]
        try:
            return document if fill is None else fill(document)
        except MissingError as error:
            metadata = document["metadata"]
            where = place(kind, metadata.get("namespace", ""), metadata.get("name", ""))
            raise InvalidError(f"{error}: required value", where=where, fix="see the field's description") from None

    def prune(self, writer: type[Resource], document: Document) -> Document:
        """Return the document without the fields that its kind does not know."""
        key = type_key(writer.kind_info)
        if key not in self._pruners:
            schema = self._schemas.get(key)
            self._pruners[key] = None if schema is None else _pruner(msgspec.inspect.type_info(schema))
        prune = self._pruners[key]
        kept = dict(document) if prune is None else prune(document)
        if self._prune_metadata is not None and isinstance(document.get("metadata"), dict):
            kept["metadata"] = self._prune_metadata(document["metadata"])
        return {"apiVersion": document["apiVersion"], "kind": document["kind"], **kept}


_Prune = Callable[[Any], Any]


def _pruner(info: msgspec.inspect.Type, seen: Mapping[type, list[_Prune]] | None = None) -> _Prune | None:
    """Compile the removal of fields that a type does not know; None when nothing below it could be removed."""
    seen = seen or {}
    match info:
        case msgspec.inspect.Metadata(type=inner):
            return _pruner(inner, seen)
        case msgspec.inspect.StructType():
            return _struct_pruner(info, seen)
        case msgspec.inspect.ListType(item_type=item) | msgspec.inspect.VarTupleType(item_type=item):
            return _list_pruner(_pruner(item, seen))
        case msgspec.inspect.DictType(value_type=item):
            return _dict_pruner(_pruner(item, seen))
        case msgspec.inspect.UnionType(types=types):
            options = [found for option in types if (found := _pruner(option, seen)) is not None]
            # Which option of several a value means is for the decoder to say; prune where there is no doubt.
            return options[0] if len(options) == 1 else None
    return None


def _list_pruner(inner: _Prune | None) -> _Prune | None:
    if inner is None:
        return None
    return lambda value: [inner(part) for part in value] if isinstance(value, list) else value


def _dict_pruner(inner: _Prune | None) -> _Prune | None:
    if inner is None:
        return None
    return lambda value: {key: inner(part) for key, part in value.items()} if isinstance(value, dict) else value


def _struct_pruner(info: msgspec.inspect.StructType, seen: Mapping[type, list[_Prune]]) -> _Prune:
    if info.cls in seen:
        slot = seen[info.cls]

        def again(value: Any) -> Any:  # noqa: ANN401 - any JSON value
            return slot[0](value)  # filled once the type around this one is compiled

        return again
    own: list[_Prune] = []
    below = {**seen, info.cls: own}
    fields = {field.encode_name: _pruner(field.type, below) for field in info.fields}

    def prune(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if not isinstance(value, dict):
            return value
        kept = {}
        for key, part in value.items():
            if key in fields:
                inner = fields[key]
                kept[key] = part if inner is None else inner(part)
        return kept

    own.append(prune)
    return prune
