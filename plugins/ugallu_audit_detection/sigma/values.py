"""JSON values as rules see them: their text, their numbers, and bodies decoded whatever a client put into them."""

import json
import re
from typing import Any

import msgspec

from ugallu.sdk import mended

BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises; bytes that are no UTF-8 get as far as here, because raw parts of a line are not looked into."""
_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted")
_number = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_odd_path = re.compile(r"//|(^|/)\.\.?(/|$)|./$").search


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


def tidy(path: str) -> str:
    """Return a path without `//`, `/./`, `..` and a slash at its end, as a kernel or a server reads it."""
    if not _odd_path(path):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and path.startswith("/"):
            continue
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def body_of(raw: bytes | msgspec.Raw) -> tuple[bool, Any]:
    """Decode a body: whether it is JSON at all, and the value.

    A client must not hide a body by writing what one decoder refuses and the API server takes: see `mended`. Numbers
    out of range are infinite.
    """
    try:
        return True, _decode(raw)
    except BROKEN:
        pass
    try:
        return True, json.loads(mended(bytes(raw)), parse_int=_big, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _big(digits: str) -> int | float:
    return int(digits) if len(digits) <= 400 else float(digits)


def _refuse(name: str) -> float:
    raise ValueError(name)
