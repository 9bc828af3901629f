"""Canonical JSON (RFC 8785, "JCS") for what we sign: one value, one byte sequence, on any machine.

msgspec's sorted encoding equals RFC 8785 as long as there are no floats, no integers beyond 2^53 - 1 and only ASCII
keys. The first two are refused, because readers in other languages would round them; other keys take a slower road.
"""

import hashlib
from typing import Any, Final

import msgspec

from ugallu.errors import PermanentError

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 100


def canonical(value: Any) -> bytes:  # noqa: ANN401 - any Struct or parsed JSON
    """Return the canonical JSON of a Struct or of parsed JSON.

    Raises `PermanentError` for a float, an integer beyond 2^53 - 1, or text that is not Unicode.
    """
    plain = msgspec.to_builtins(value)
    try:
        if _all_ascii(plain, 0):
            return msgspec.json.encode(plain, order="sorted")
        return msgspec.json.encode(_sorted(plain))
    except UnicodeEncodeError as error:
        raise PermanentError("text with half a surrogate pair cannot be signed", where="canonical JSON") from error


def digest(content: bytes) -> str:
    """Return `sha256:<hex>` of the bytes: how status objects and stores name content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _all_ascii(value: Any, depth: int) -> bool:  # noqa: ANN401 - parsed JSON
    """Tell whether every key is ASCII; raise for values that have no canonical form."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if depth > MAX_DEPTH:
        raise PermanentError(f"nested deeper than {MAX_DEPTH}", where="canonical JSON")
    # A loop that stops early would leave the rest unchecked: `&=` visits everything.
    ascii_only = True
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise PermanentError(f"the key {key!r} is no text", where="canonical JSON")
            ascii_only &= key.isascii()
            ascii_only &= _all_ascii(inner, depth + 1)
    elif kind is list or kind is tuple:
        for inner in value:
            ascii_only &= _all_ascii(inner, depth + 1)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise PermanentError(
                f"the integer {value} is beyond 2^53 - 1", where="canonical JSON", fix="write it as text"
            )
    else:
        raise PermanentError(
            f"a {kind.__name__} has no canonical form here", where="canonical JSON", fix="write it as text"
        )
    return ascii_only


def _sorted(value: Any) -> Any:  # noqa: ANN401 - parsed JSON
    """Sort keys by UTF-16 code units, as RFC 8785 3.2.3 asks; beyond ASCII that is not the order of UTF-8 bytes."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda text: text.encode("utf-16-be"))}
    if isinstance(value, list | tuple):
        return [_sorted(inner) for inner in value]
    return value
