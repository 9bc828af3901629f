"""Strict readers of the few text forms that bundles use: one value, one spelling, so no flipped bit goes unseen."""

import base64
import binascii
import json
import re
from typing import Any, Final

import msgspec

from ugallu.errors import PermanentError

MAX_INT64: Final = 2**63 - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def b64(content: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(content).decode()


def unb64(text: str, where: str, *, limit: int, size: int = 0) -> bytes:
    """Decode standard base64 of at most `limit` bytes (exactly `size`, if given), in its one canonical spelling."""
    if len(text) > limit * 4 // 3 + 4:
        raise PermanentError(f"larger than {limit} bytes", where=where)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PermanentError("not base64", where=where) from error
    if b64(raw) != text:
        raise PermanentError("not canonical base64", where=where)
    if size and len(raw) != size:
        raise PermanentError(f"{len(raw)} bytes instead of {size}", where=where)
    return raw


def int64(value: str | int, where: str) -> int:
    """Read a non-negative int64 as proto3 JSON writes it: decimal text, or a plain number."""
    if isinstance(value, int):
        number = value
    elif _DECIMAL.fullmatch(value):
        number = int(value)
    else:
        raise PermanentError("not a decimal number", where=where)
    if not 0 <= number <= MAX_INT64:
        raise PermanentError("negative or beyond 64 bits", where=where)
    return number


def refuse_doubles(content: bytes, where: str) -> None:
    """A field that stands twice is read differently by different parsers: what one verified, another would show.

    Raises `PermanentError`, also for what is no JSON, or nested too deep to look through.
    """
    if _is_plain(content):
        return

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise PermanentError("a field stands twice", where=where)
        return found

    try:
        json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where=where) from error


def _is_plain(content: bytes) -> bool:
    """Tell whether this is JSON as we write it. What comes out again byte by byte had no field twice: one was lost."""
    try:
        return msgspec.json.encode(msgspec.json.decode(content)) == content
    except (ValueError, RecursionError):
        return False
