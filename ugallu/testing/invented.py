"""Values of the API made up from their types: one with every field filled, or as many as hypothesis wants to try."""

import datetime as dt
import enum
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from msgspec import inspect

from ugallu.api.meta import Metadata
from ugallu.api.scalars import QUANTITY

T = TypeVar("T")
Drawn = st.SearchStrategy[Any]

_EPOCH = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
_PATTERNED = {QUANTITY: ("2Gi", "500m", "-1.5", "3e2", "7")}
_WORDS = ("Ready", "Sealed", "A1")
"""Texts that every pattern without a list of values takes: those of conditions."""


def filled(cls: type[T]) -> T:
    """Return a value with every field filled, lists and maps with one element, the first of every choice."""
    value: T = _one(cls)
    return value


def values(cls: type[T]) -> st.SearchStrategy[T]:
    """Return the strategy of all values of a type; a field with a default may be left out."""
    strategy: st.SearchStrategy[T] = _strategy(inspect.type_info(cls), ())
    return strategy


def _one(cls: type[Any]) -> Any:  # noqa: ANN401 - a value of the type
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return cls(**{field.name: _fill(field.type, ()) for field in info.fields if field.type is not _METADATA})


def _fill(info: inspect.Type, choices: tuple[str, ...]) -> Any:  # noqa: ANN401 - a value of the type
    match info:
        case inspect.Metadata(type=inner):
            return _fill(inner, _choices(info))
        case inspect.UnionType(types=types):
            return _fill(next(option for option in types if not isinstance(option, inspect.NoneType)), choices)
        case inspect.StructType(cls=cls):
            return Metadata() if cls is Metadata else _one(cls)
        case inspect.EnumType(cls=cls):
            return next(iter(cls))
        case inspect.VarTupleType(item_type=item):
            return (_fill(item, choices),)
        case inspect.DictType(value_type=item):
            return {"key": _fill(item, ())}
        case inspect.BoolType():
            return True
        case inspect.IntType(ge=least):
            return max(least or 1, 1)
        case inspect.FloatType():
            return 1.5
        case inspect.DateTimeType():
            return _EPOCH
        case inspect.BytesType():
            return b"\x00\xff"
        case inspect.AnyType():
            return "anything"
        case inspect.StrType(pattern=pattern):
            return choices[0] if choices else _PATTERNED.get(pattern or "", _WORDS)[0]
    raise TypeError(info)


def _choices(info: inspect.Metadata) -> tuple[str, ...]:
    if "read" in (info.extra or {}):
        return ("1h30m", "0s", "1.5s")
    return tuple((info.extra_json_schema or {}).get("enum", ()))


_METADATA = inspect.type_info(Metadata)


def _strategy(info: inspect.Type, choices: tuple[str, ...]) -> Drawn:
    match info:
        case inspect.Metadata(type=inner):
            return _strategy(inner, _choices(info))
        case inspect.UnionType(types=types):
            return st.one_of([_strategy(option, choices) for option in types])
        case inspect.NoneType():
            return st.none()
        case inspect.StructType(cls=cls):
            return st.just(Metadata()) if cls is Metadata else st.deferred(_struct(cls, info))
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list[enum.Enum](cls))
        case inspect.VarTupleType(item_type=item):
            return st.lists(_strategy(item, choices), max_size=2).map(tuple)
        case inspect.DictType(value_type=item):
            return st.dictionaries(st.text(max_size=4), _strategy(item, ()), max_size=2)
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=least, le=most):
            return st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
        case inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case inspect.DateTimeType():
            return st.datetimes(timezones=st.just(dt.UTC))
        case inspect.BytesType():
            return st.binary(max_size=8)
        case inspect.AnyType():
            return st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4)
        case inspect.StrType(pattern=pattern, max_length=most):
            if choices:
                return st.sampled_from(choices)
            if pattern is not None:
                return st.sampled_from(_PATTERNED.get(pattern, _WORDS))
            return st.text(max_size=min(most or 8, 8))
    raise TypeError(info)


def _struct(cls: type[Any], info: inspect.StructType) -> Callable[[], Drawn]:
    required = {field.name: _strategy(field.type, ()) for field in info.fields if field.required}
    optional = {field.name: _strategy(field.type, ()) for field in info.fields if not field.required}
    strategy = st.fixed_dictionaries(required, optional=optional).map(lambda fields: cls(**fields))
    return lambda: strategy
