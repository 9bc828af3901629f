"""Values at paths, decoded without decoding the body around them.

A body is mostly what no rule looks at. For the paths that are asked msgspec gets a type that names only the ways there,
so that the rest is skipped at the speed of a scan. Whatever does not fit the type is left to the ordinary decoder.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from ugallu_audit_detection.sigma.path import EACH, MAX_VALUES, Step, walk

Collect = Callable[[Any, list[list[Any]]], None]
Way = tuple[int, tuple[Step, ...]]
"""Where the values go, and the steps that lead to them."""
MAX_BYTES: Final = 2 * MAX_VALUES
"""A longer body may hold more values than `walk` looks at, so it is left to that."""
_OTHER: Any = str | float | int | bool | None
_ABSENT = msgspec.UNSET


@lru_cache(maxsize=4096)
def peek(steps: tuple[Step, ...]) -> Callable[[bytes], list[Any]]:
    """Return a function from the bytes of a body to the values at a native path; see `path.walk`.

    It raises one of `values.BROKEN` where the body needs the ordinary decoder.
    """
    values = peek_all((steps,))
    return lambda body: values(body)[0]


def peek_all(paths: Sequence[tuple[Step, ...]]) -> Callable[[bytes], list[list[Any]]]:
    """Return the same for several paths, which are read in one pass: a list of values for each."""
    shape, collect = _native(tuple(enumerate(paths)))
    decode = msgspec.json.Decoder(shape).decode
    count = len(paths)

    def values(body: bytes) -> list[list[Any]]:
        if len(body) > MAX_BYTES:
            raise msgspec.DecodeError("too long to be looked at in passing")
        found: list[list[Any]] = [[] for _ in range(count)]
        collect(decode(body), found)
        return found

    return values


def _native(ways: Sequence[Way]) -> tuple[Any, Collect]:
    """Return the type of what the ways start from, and what collects their values from it."""
    firsts = {steps[0] if steps else None for _, steps in ways}
    if all(isinstance(step, str) for step in firsts):
        return _keyed(ways)
    if firsts == {EACH}:
        return _each([(place, steps[1:]) for place, steps in ways])
    # Here a path ends that others go on from, or an index is asked: that part is decoded.
    looks = [(place, walk(steps)) for place, steps in ways]

    def decoded(value: Any, found: list[list[Any]]) -> None:  # noqa: ANN401 - any JSON
        for place, look in looks:
            found[place] += look(value)

    return Any, decoded


def _keyed(ways: Sequence[Way]) -> tuple[Any, Collect]:
    below: dict[str, list[Way]] = {}
    for place, (key, *rest) in ways:
        below.setdefault(str(key), []).append((place, tuple(rest)))
    inner = {f"key{number}": _native(some) for number, some in enumerate(below.values())}
    holder = msgspec.defstruct(
        "Holder",
        [(name, shape, None) for name, (shape, _) in inner.items()],
        rename=dict(zip(inner, below, strict=True)),
        gc=False,
    )
    collects = [(name, collect) for name, (_, collect) in inner.items()]

    def keyed(value: Any, found: list[list[Any]]) -> None:  # noqa: ANN401 - any JSON
        if type(value) is holder:
            for name, collect in collects:
                if (item := getattr(value, name)) is not None:
                    collect(item, found)

    return holder | list[msgspec.Raw] | _OTHER, keyed


def _each(ways: Sequence[Way]) -> tuple[Any, Collect]:
    inner, collect = _native(ways)

    def each(value: Any, found: list[list[Any]]) -> None:  # noqa: ANN401 - any JSON
        if type(value) is list:
            for item in value:
                collect(item, found)
        elif type(value) is dict:
            for item in value.values():
                collect(item, found)

    return list[inner] | dict[str, inner] | _OTHER, each  # type: ignore[valid-type]


@lru_cache(maxsize=4096)
def peek_crossing(segments: tuple[str, ...]) -> Callable[[bytes], list[Any]]:
    """Return the same for a dotted name of Sigma; see `path.crossing`. Arrays inside arrays are left to the decoder."""
    shape, collect = _dotted(segments)
    decode = msgspec.json.Decoder(shape).decode

    def values(body: bytes) -> list[Any]:
        if len(body) > MAX_BYTES:
            raise msgspec.DecodeError("too long to be looked at in passing")
        found: list[Any] = []
        collect(decode(body), found)
        return found

    return values


def _flat(value: Any, found: list[Any]) -> None:  # noqa: ANN401 - any JSON
    if type(value) is list:
        for item in value:
            _flat(item, found)
    elif value is not None:
        found.append(value)


def _dotted(segments: tuple[str, ...]) -> tuple[Any, Callable[[Any, list[Any]], None]]:
    if not segments:
        return Any, _flat
    # A key may hold dots itself, and the longest one counts: one field for each way to join the next segments.
    ends = range(len(segments), 0, -1)
    inner = [_dotted(segments[end:]) for end in ends]
    names = [f"key{end}" for end in ends]
    holder = msgspec.defstruct(
        "Holder",
        [(name, shape | msgspec.UnsetType if shape is not Any else Any, _ABSENT)
         for name, (shape, _) in zip(names, inner, strict=True)],
        rename={f"key{end}": ".".join(segments[:end]) for end in ends},
        gc=False,
    )  # fmt: skip
    collects = [(name, collect) for name, (_, collect) in zip(names, inner, strict=True)]

    def named(value: Any, found: list[Any]) -> None:  # noqa: ANN401
        if type(value) is holder:
            for name, collect in collects:
                item = getattr(value, name)
                if item is not _ABSENT:
                    collect(item, found)
                    return
        elif type(value) is list:
            for item in value:
                named(item, found)

    return holder | list[holder | _OTHER] | _OTHER, named  # type: ignore[valid-type]
