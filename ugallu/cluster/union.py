"""One Struct that holds what several Structs of one kind read, so that one watch decodes once for all of them.

    united = unite((PodOnNode, PodImages))     a Struct with the fields of both, nested Structs united likewise
    fit = projection(united, PodOnNode)        from what was decoded to an instance of the reader's own class

A reader gets what a decoder of its own would have given: its defaults where a field is absent, and nothing (None) for
an object that lacks a field on which this reader insists and others do not. Structs that read one field as different
types are not united. An object that is wrong inside a field which one of them reads does not decode for any of them.
"""

import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import FieldInfo

from ugallu.api.meta import Resource

R = TypeVar("R", bound=Resource)

Fit = Callable[[Any], Any]


class _ApartError(TypeError):
    """These types cannot be read as one."""


class _MisfitError(ValueError):
    """This object lacks what the reader insists on."""


@cache
def unite(kinds: tuple[type[Resource], ...]) -> type[Resource] | None:
    """Return the Struct that has every field of every one of these; None when some differ about a field's type.

    A Struct that has all that the others read is the union: nothing needs to be made up then.
    """
    try:
        united: type[Resource] = _unite_structs(kinds)
    except _ApartError:
        return None
    return united


@cache
def covers(held: Any, wanted: Any) -> bool:  # noqa: ANN401 - types, as annotations have them
    """Tell whether an instance of `held` has all that a decoder of `wanted` would have read, absence included."""
    (source, had, within), (target, extras, bounds) = _part(held), _part(wanted)
    if set(extras) - set(had) or (bounds and bounds != within):
        return False
    if source == target:
        return True
    if _is_plain_struct(source) and _is_plain_struct(target):
        there = {info.encode_name: info for info in msgspec.structs.fields(source)}
        here = {info.encode_name: info for info in msgspec.structs.fields(target)}
        return (
            here.keys() <= there.keys()
            and not any(info.required for name, info in there.items() if name not in here)
            and all(
                covers(there[name].type, info.type) and _absent_alike(there[name], info) for name, info in here.items()
            )
        )
    origin, old, new = typing.get_origin(source), typing.get_args(source), typing.get_args(target)
    if origin is not typing.get_origin(target) or origin not in (tuple, list, dict) or len(old) != len(new):
        return False
    if origin is tuple and (old[1:] != (Ellipsis,) or new[1:] != (Ellipsis,)):
        return False
    return covers(old[0], new[0]) and (origin is not dict or covers(old[1], new[1]))


def projection(united: type[Any], kind: type[R]) -> Callable[[Any], R | None]:
    """Return what makes an instance of `kind` out of one of `united`, and None out of one that `kind` cannot hold."""
    source: Any = united
    fit = _fit(source, kind)

    def project(value: Any) -> R | None:  # noqa: ANN401 - an instance of the made-up class
        try:
            projected: R = value if fit is None else fit(value)
        except _MisfitError:
            return None
        return projected

    return project


def _unite(declared: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a type, as annotations have them
    distinct = tuple(dict.fromkeys(declared))
    if len(distinct) == 1:
        return distinct[0]
    parts = [_part(each) for each in distinct]
    cores = tuple(dict.fromkeys(part.core for part in parts))
    bounds = tuple(dict.fromkeys(part.bounds for part in parts if part.bounds))
    if len(bounds) > 1:
        raise _ApartError(f"read within {' and '.join(map(str, bounds))}")
    united: Any
    if len(cores) == 1:
        united = cores[0]
    elif all(_is_plain_struct(core) for core in cores):
        united = _unite_structs(cores)
    else:
        united = _unite_containers(cores)
    if bounds:
        # Who is content with anything is not shown what another one refuses.
        united = Annotated[(united, *bounds[0])]
    for extra in dict.fromkeys(extra for part in parts for extra in part.extras):
        united = united | extra
    return united


def _unite_containers(cores: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a type, as annotations have them
    origins = {typing.get_origin(core) for core in cores}
    arguments = [typing.get_args(core) for core in cores]
    if origins == {tuple} and all(len(found) == 2 and found[1] is Ellipsis for found in arguments):
        return tuple[_unite(tuple(found[0] for found in arguments)), ...]  # type: ignore[misc]
    if origins == {list}:
        return list[_unite(tuple(found[0] for found in arguments))]  # type: ignore[misc]
    if origins == {dict}:
        return dict[  # type: ignore[misc]
            _unite(tuple(found[0] for found in arguments)), _unite(tuple(found[1] for found in arguments))
        ]
    raise _ApartError(f"read as {' and '.join(map(str, cores))}")


@cache
def _unite_structs(classes: tuple[type[msgspec.Struct], ...]) -> Any:  # noqa: ANN401 - a class made here
    for cls in classes:
        if all(covers(cls, other) for other in classes):
            return cls
    declared: dict[str, list[FieldInfo]] = {}
    for cls in classes:
        if not _is_plain_struct(cls):
            raise _ApartError(f"{cls.__name__} is tagged, an array, or refuses unknown fields")
        for info in msgspec.structs.fields(cls):
            declared.setdefault(info.encode_name, []).append(info)
    fields: list[tuple[str, Any, Any]] = []
    taken: set[str] = set()
    for wire, infos in declared.items():
        name = infos[0].name
        while name in taken:
            name += "_"
        taken.add(name)
        united = _unite(tuple(info.type for info in infos))
        first = infos[0]
        if len(infos) == len(classes) and all(_same(first, info) for info in infos):
            fields.append((name, united, _field(first, wire)))
        else:
            # Absent must stay absent: each reader has a default of its own, or insists.
            fields.append((name, united | UnsetType, msgspec.field(default=UNSET, name=wire)))
    made = "+".join(cls.__name__ for cls in classes)
    if all(issubclass(cls, Resource) for cls in classes):
        namespace = {"kind_info": classes[0].kind_info}  # type: ignore[attr-defined]
        return msgspec.defstruct(made, fields, bases=(Resource,), namespace=namespace, frozen=True, kw_only=True)
    return msgspec.defstruct(made, fields, frozen=True, kw_only=True)


@cache
def _fit(united: Any, wanted: Any) -> Fit | None:  # noqa: ANN401 - types, as annotations have them
    """Return what turns a value of one type into the other; None when it already is one."""
    (source, had, _), (target, extras, _) = _part(united), _part(wanted)
    if source == target:
        inner = None
    elif _is_plain_struct(target):
        inner = _fit_struct(source, target)
    else:
        inner = _fit_container(source, target)
    allowed = types.NoneType in extras or types.NoneType not in had
    if allowed and inner is None:
        return None

    def fit(value: Any) -> Any:  # noqa: ANN401 - JSON, decoded
        if value is None:
            if allowed:
                return None
            raise _MisfitError
        return value if inner is None else inner(value)

    return fit


def _fit_container(source: Any, target: Any) -> Fit | None:  # noqa: ANN401 - types, as annotations have them
    origin = typing.get_origin(target)
    old, new = typing.get_args(source), typing.get_args(target)
    if origin is dict:
        inner = _fit(old[1], new[1])
        return None if inner is None else lambda values: {key: inner(value) for key, value in values.items()}
    item = _fit(old[0], new[0])
    return None if item is None else lambda values: origin(map(item, values))


def _fit_struct(source: type[msgspec.Struct], target: type[msgspec.Struct]) -> Fit:
    held = {info.encode_name: info for info in msgspec.structs.fields(source)}
    plan = [
        (info.name, held[info.encode_name].name, _fit(held[info.encode_name].type, info.type), info.required)
        for info in msgspec.structs.fields(target)
    ]

    def fit(value: Any) -> Any:  # noqa: ANN401 - an instance of the made-up class
        found: dict[str, Any] = {}
        for name, attribute, inner, required in plan:
            item = getattr(value, attribute)
            if item is UNSET:
                if required:
                    raise _MisfitError
            else:
                found[name] = item if inner is None else inner(item)
        try:
            return target(**found)
        except (ValueError, TypeError) as error:  # from a __post_init__: decoding refuses such an object, too
            raise _MisfitError from error

    return fit


class _Part(NamedTuple):
    """A declared type in its parts."""

    core: Any
    extras: tuple[Any, ...]
    """What says that there may be nothing: None, UNSET."""
    bounds: tuple[Any, ...]
    """What the values must obey besides (`msgspec.Meta`)."""


def _part(declared: Any) -> _Part:  # noqa: ANN401 - a type, as annotations have them
    if typing.get_origin(declared) is Annotated:
        inner = _part(declared.__origin__)
        return inner._replace(bounds=(*inner.bounds, *declared.__metadata__))
    if typing.get_origin(declared) not in (typing.Union, types.UnionType):
        return _Part(declared, (), ())
    members = typing.get_args(declared)
    core = tuple(member for member in members if member not in (types.NoneType, UnsetType))
    extras = tuple(member for member in members if member in (types.NoneType, UnsetType))
    if len(core) == 1:
        inner = _part(core[0])
        return inner._replace(extras=(*inner.extras, *extras))
    return _Part(typing.Union[core], extras, ())  # noqa: UP007 - of a tuple


def _is_plain_struct(declared: Any) -> bool:  # noqa: ANN401 - a type, as annotations have them
    if not (isinstance(declared, type) and issubclass(declared, msgspec.Struct)):
        return False
    config = declared.__struct_config__
    return config.tag is None and not config.array_like and not config.forbid_unknown_fields


def _same(one: FieldInfo, other: FieldInfo) -> bool:
    defaults = (one.default, one.default_factory), (other.default, other.default_factory)
    # Equal values of different types (0, False) are different defaults.
    same = all(a is b or (type(a) is type(b) and a == b) for a, b in zip(*defaults, strict=True))
    return same and one.type == other.type


def _absent_alike(held: FieldInfo, wanted: FieldInfo) -> bool:
    """Whether an object without the field looks the same through both."""
    if held.default is UNSET:
        return True
    if held.required or wanted.required:
        return held.required and wanted.required
    (there, here), inner = map(_default, (held, wanted)), _fit(held.type, wanted.type)
    value = there if inner is None or there is None else inner(there)
    return type(value) is type(here) and bool(value == here)


def _default(info: FieldInfo) -> Any:  # noqa: ANN401 - of any type
    return info.default_factory() if info.default is msgspec.NODEFAULT else info.default


def _field(info: FieldInfo, wire: str) -> Any:  # noqa: ANN401 - what msgspec calls a field
    if info.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=info.default_factory, name=wire)
    if info.default is not msgspec.NODEFAULT:
        return msgspec.field(default=info.default, name=wire)
    return msgspec.field(name=wire)
