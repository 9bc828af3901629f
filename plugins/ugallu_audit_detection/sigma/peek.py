"""Values at a path, decoded without decoding the body around them.

A body is mostly what no rule looks at. For one path msgspec gets a type that names only the way there, so that the rest
is skipped at the speed of a scan. Whatever does not fit the type is left to the ordinary decoder.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from ugallu_audit_detection.sigma.path import Each, Step

Collect = Callable[[Any, list[Any]], None]
_OTHER: Any = str | float | int | bool | None
_ABSENT = msgspec.UNSET


@lru_cache(maxsize=4096)
def peek(steps: tuple[Step, ...]) -> Callable[[bytes], list[Any]]:
    """Return a function from the bytes of a body to the values at a native path; see `path.walk`.

    It raises `msgspec.DecodeError` or `RecursionError` where the body needs the ordinary decoder.
    """
    shape, collect = _native(steps)
    decode = msgspec.json.Decoder(shape).decode

    def values(body: bytes) -> list[Any]:
        found: list[Any] = []
        collect(decode(body), found)
        return found

    return values


def _keep(value: Any, found: list[Any]) -> None:  # noqa: ANN401 - any JSON
    if value is not None:
        found.append(value)


def _native(steps: tuple[Step, ...]) -> tuple[Any, Collect]:
    """Return the type of what the steps start from, and what collects their values from it."""
    if not steps:
        return Any, _keep
    step = steps[0]
    inner, collect = _native(steps[1:])
    if isinstance(step, str):
        holder = msgspec.defstruct("Holder", [("value", inner, None)], rename={"value": step}, gc=False)

        def named(value: Any, found: list[Any]) -> None:  # noqa: ANN401
            if type(value) is holder:
                collect(value.value, found)  # type: ignore[attr-defined]

        return holder | list[msgspec.Raw] | _OTHER, named
    if isinstance(step, Each):

        def each(value: Any, found: list[Any]) -> None:  # noqa: ANN401
            if type(value) is list:
                for item in value:
                    collect(item, found)
            elif type(value) is dict:
                for item in value.values():
                    collect(item, found)

        return list[inner] | dict[str, inner] | _OTHER, each  # type: ignore[valid-type]

    def indexed(value: Any, found: list[Any]) -> None:  # noqa: ANN401
        if type(value) is list and step < len(value):
            collect(value[step], found)

    return list[inner] | dict[str, msgspec.Raw] | _OTHER, indexed  # type: ignore[valid-type]


@lru_cache(maxsize=4096)
def peek_crossing(segments: tuple[str, ...]) -> Callable[[bytes], list[Any]]:
    """Return the same for a dotted name of Sigma; see `path.crossing`. Arrays inside arrays are left to the decoder."""
    shape, collect = _dotted(segments)
    decode = msgspec.json.Decoder(shape).decode

    def values(body: bytes) -> list[Any]:
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


def _dotted(segments: tuple[str, ...]) -> tuple[Any, Collect]:
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
