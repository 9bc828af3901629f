"""JSON values as rules see them: their text, their numbers, and bodies decoded whatever a client put into them."""

import json
import re
from typing import Any

import msgspec

MAX_DEPTH = 128
"""Nesting kept of a body that is too deep for the decoder; Kubernetes' own objects stay below 40."""

_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted")
_number = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_token = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_surrogate = re.compile("[\ud800-\udfff]")


def text_of(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return the text of a value that is not null.

    `true`, `false`; integers in plain decimal, also when written 1e6 or 1.0; other numbers in their shortest
    round-trip form; objects and arrays as compact JSON with sorted keys.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    try:
        return _sorted.encode(value).decode()
    except (RecursionError, UnicodeEncodeError):
        return ""


def number_of(value: Any) -> float | int | None:  # noqa: ANN401 - any JSON
    """Return a number, or the number that a text spells; None for everything else, booleans included."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and len(value) <= 64 and _number.fullmatch(value):
        return float(value)
    return None


def body_of(raw: bytes | msgspec.Raw) -> tuple[bool, Any]:
    """Decode a body: whether it is JSON at all, and the value.

    A client must not hide a body by writing what one decoder refuses and the API server takes: lone surrogates become
    U+FFFD, numbers out of range infinite, and what is nested deeper than `MAX_DEPTH` null.
    """
    try:
        return True, _decode(raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    shallow = _pruned(bytes(raw))
    try:
        value = json.loads(shallow, parse_int=_big, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None
    return True, _mended(value)


def _big(digits: str) -> int | float:
    return int(digits) if len(digits) <= 400 else float(digits)


def _refuse(name: str) -> float:
    raise ValueError(name)


def _mended(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return _surrogate.sub("�", value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _pruned(raw: bytes) -> bytes:
    """Return the JSON with every container deeper than `MAX_DEPTH` replaced by null."""
    kept: list[bytes] = []
    depth = start = 0
    for token in _token.finditer(raw):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept += (raw[start : token.start()], b"null")
        elif mark in (b"]", b"}"):
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    if depth <= MAX_DEPTH:
        kept.append(raw[start:])
    return b"".join(kept)
