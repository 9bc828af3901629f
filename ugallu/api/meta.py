"""What every object of the API shares: metadata, references, conditions, and how names look on the wire.

Structs are frozen values: change one with `msgspec.structs.replace`. Encoding leaves out empty fields, because on
this API absent and zero mean the same (booleans whose default is true are always written, see `always`).
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import msgspec

from ugallu.api.scalars import listed_by, one_of
from ugallu.errors import PermanentError

GROUP = "security.ugallu.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

T = TypeVar("T")

_INITIALISMS = {"id": "ID", "uid": "UID", "url": "URL", "uri": "URI", "ip": "IP", "ips": "IPs", "ipc": "IPC",
                "pid": "PID", "dns": "DNS", "ca": "CA"}  # fmt: skip


def wire_name(name: str) -> str:
    """Return the JSON name of a field: `correlation_id` is `correlationID`, `uid` stays `uid`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(_INITIALISMS.get(part, part.capitalize()) for part in rest)


class Always(Generic[T]):
    """A default factory whose value is written even when it equals the default.

    `required`: the schema insists on the field, so an object without it cannot be stored.
    """

    __slots__ = ("required", "value")

    def __init__(self, value: T, *, required: bool) -> None:
        self.value = value
        self.required = required

    def __call__(self) -> T:
        """Return the value."""
        return self.value


def always(value: T, *, required: bool = True) -> Callable[[], T]:
    """Return the factory of a field that is written whatever its value is; see `Always`."""
    return Always(value, required=required)


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """A value of the API: camel case on the wire, empty fields left out."""


class Atomic(Wire, frozen=True, kw_only=True):
    """A value that server-side apply replaces as a whole: no two managers share it."""


class Column(msgspec.Struct, frozen=True):
    """A column of `kubectl get`: its head, where in the object its value is, and the type of that value."""

    name: str
    path: str
    type: str = "string"


AGE = Column("Age", ".metadata.creationTimestamp", "date")


class Kind(msgspec.Struct, frozen=True):
    """The coordinates of a kind: what a REST path and a `kubectl` argument need, and how `kubectl get` shows it."""

    name: str
    plural: str
    group: str = GROUP
    version: str = VERSION
    namespaced: bool = False
    short_names: tuple[str, ...] = ()
    selectable: tuple[str, ...] = ()
    """Paths that field selectors may ask for besides name and namespace, dotted (`spec.type`)."""
    columns: tuple[Column, ...] = ()
    spec_required: bool = False
    """Whether the schema insists on `spec`; a Struct may insist where the schema does not."""

    @property
    def api_version(self) -> str:
        """`group/version`, or the bare version of the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


class OwnerReference(Atomic, frozen=True, kw_only=True):
    """The object whose deletion takes this one along."""

    api_version: str
    """API version of the owner."""
    kind: str
    """Kind of the owner."""
    name: str
    """Name of the owner."""
    uid: str
    """UID of the owner."""
    controller: bool = False
    """Whether the owner manages this object."""
    block_owner_deletion: bool = False
    """Whether a foreground deletion of the owner waits for this object."""


class Metadata(Wire, frozen=True, kw_only=True):
    """`metadata` of an object; times are RFC 3339, UTC, second precision."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: dt.datetime | None = None
    deletion_timestamp: dt.datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Resource(Wire, frozen=True, kw_only=True):
    """An object with identity; a subclass names its `kind` and adds `spec`, `status` or data of its own."""

    kind_info: ClassVar[Kind]
    metadata: Metadata = Metadata()

    @property
    def ref(self) -> "ObjectReference":
        """A reference to this object, its version left out."""
        kind = type(self).kind_info
        return ObjectReference(
            api_version=kind.api_version,
            kind=kind.name,
            name=self.metadata.name,
            namespace=self.metadata.namespace,
            uid=self.metadata.uid,
        )

    def with_metadata(self, **changes: Any) -> Self:  # noqa: ANN401 - the fields of Metadata
        """Return a copy whose metadata differs in the given fields."""
        return msgspec.structs.replace(self, metadata=msgspec.structs.replace(self.metadata, **changes))


class ObjectReference(Atomic, frozen=True, kw_only=True):
    """Where another object is; every field may be absent."""

    api_version: str = ""
    """API version of the object."""
    kind: str = ""
    """Kind of the object."""
    name: str = ""
    """Name of the object."""
    namespace: str = ""
    """Namespace of the object, empty where it has none."""
    uid: str = ""
    """UID of the object."""
    field_path: str = ""
    """A part of the object, as a path inside of it."""
    resource_version: str = ""
    """Version of the object that is meant."""


_CONDITION_TYPE = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
)
_REASON = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"


class Condition(Wire, frozen=True, kw_only=True):
    """One aspect of an object's state, as `kubectl wait` reads it."""

    type: Annotated[str, msgspec.Meta(max_length=316, pattern=_CONDITION_TYPE)]
    """The aspect, in CamelCase."""
    status: Annotated[str, one_of("True", "False", "Unknown")]
    """True, False or Unknown."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=_REASON)]
    """Why, in one word for programs."""
    message: Annotated[str, msgspec.Meta(max_length=32768)] = msgspec.field(default_factory=always(""))
    """Why, in a sentence for people; may be empty."""
    last_transition_time: dt.datetime = msgspec.field(default_factory=always(dt.datetime(1970, 1, 1, tzinfo=dt.UTC)))
    """When `status` changed last."""
    observed_generation: Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"format": "int64"})] = 0
    """The `metadata.generation` that this was said of."""


Conditions = Annotated[tuple[Condition, ...], listed_by("type")]
"""Conditions of which a type occurs once; two writers may each own theirs."""


def with_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Return the conditions with `new` in the place of its type; the transition time is kept while status is."""
    kept = []
    for old in conditions:
        if old.type != new.type:
            kept.append(old)
        elif old.status == new.status:
            new = msgspec.structs.replace(new, last_transition_time=old.last_transition_time)
    return (*kept, new)


class Config(Wire, frozen=True, kw_only=True):
    """Base of an operator's settings: what the cell decodes strictly and hands to `Operator.build`."""


class ConfigStatus(Wire, frozen=True, kw_only=True):
    """Whether the settings are in force."""

    conditions: Conditions = ()
    """Ready says whether the settings are in force, and if not, which field is at fault."""
    last_config_load_at: dt.datetime | None = None
    """When the settings were read last with success."""


def utc_seconds(moment: dt.datetime) -> dt.datetime:
    """Return the moment in UTC, cut to the second: the precision of times on this API."""
    return moment.astimezone(dt.UTC).replace(microsecond=0)


def encode(value: Any) -> bytes:  # noqa: ANN401 - any Struct of the API
    """Return JSON with `apiVersion` and `kind` first where the value is a Resource."""
    if isinstance(value, Resource):
        kind = type(value).kind_info
        return msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.name, **msgspec.to_builtins(value)})
    return msgspec.json.encode(value)


def decode_strict(cls: type[T], data: Any, *, where: str = "") -> T:  # noqa: ANN401 - parsed JSON or YAML
    """Decode what a person wrote: a field that the type does not know, or a duration that is none, is an error.

    Raises `PermanentError` that names the field. `data` is parsed JSON or YAML, or JSON bytes.
    """
    try:
        raw = msgspec.json.decode(data) if isinstance(data, bytes) else data
        value = msgspec.convert(raw, cls)
    except msgspec.DecodeError as error:
        raise PermanentError(str(error), where=where, fix="see the field's description") from error
    for what, fix in _faults(raw, _type_info(cls), ""):
        raise PermanentError(what, where=where, fix=fix)
    return value


_TYPES: dict[object, msgspec.inspect.Type] = {}


def _type_info(cls: type[Any]) -> msgspec.inspect.Type:
    """Kept: looking at a type costs milliseconds, and rules come by the hundred."""
    if cls not in _TYPES:
        _TYPES[cls] = msgspec.inspect.type_info(cls)
    return _TYPES[cls]


def _faults(raw: Any, info: msgspec.inspect.Type, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Yield what is wrong with a value beyond its type, each with the way out."""
    match info:
        case msgspec.inspect.Metadata(type=inner, extra=extra):
            if extra is not None and "read" in extra and isinstance(raw, str) and raw:
                try:
                    extra["read"](raw)
                except PermanentError as error:
                    yield f"{path}: {error.what}", error.fix
            yield from _faults(raw, inner, path)
        case msgspec.inspect.UnionType(types=types):
            for option in types:
                yield from _faults(raw, option, path)
        case msgspec.inspect.StructType(fields=fields) if isinstance(raw, Mapping):
            known = {field.encode_name: field.type for field in fields}
            for key, value in raw.items():
                here = f"{path}.{key}" if path else str(key)
                if key in known:
                    yield from _faults(value, known[key], here)
                elif path or key not in ("apiVersion", "kind"):
                    yield f"unknown field {here}", "check the spelling; nothing is ignored"
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() if isinstance(raw, list):
            for index, value in enumerate(raw):
                yield from _faults(value, info.item_type, f"{path}[{index}]")
        case msgspec.inspect.DictType(value_type=inner) if isinstance(raw, Mapping):
            for key, value in raw.items():
                yield from _faults(value, inner, f"{path}.{key}")
