"""Reads JSON that anyone may have sent: a wrong shape reads as absent, what is too long is cut and noted.

A denied request is audited with its body although nothing ever validated it, so every field here may be anything.
Values keep to what canonical JSON can carry: no floats, no integers above 2^53, ASCII keys.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeGuard, TypeVar

import msgspec

from ugallu.sdk import Wire, scalars

MAX_ITEMS: Final = 64
MAX_TEXT: Final = 1024
MAX_BLOB_BYTES: Final = 4096
MAX_DEPTH: Final = 8
_SAFE_INTEGER: Final = 2**53 - 1
_quantity: Final = re.compile(scalars.QUANTITY)

W = TypeVar("W", bound=Wire)


class Cuts:
    """Whether anything of a body was left out."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made = False


class Part:
    """One value inside a body; `cuts` is shared by all parts of it."""

    __slots__ = ("_cuts", "_value")

    def __init__(self, value: object, cuts: Cuts) -> None:
        self._value = value
        self._cuts = cuts

    def __bool__(self) -> bool:
        return isinstance(self._value, dict) and bool(self._value)

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw(key) is not None

    def names(self) -> tuple[str, ...]:
        """Return the names of all fields, sorted."""
        return tuple(self._shorten(sorted(map(str, self._value)))) if isinstance(self._value, dict) else ()

    def raw(self, key: str) -> object:
        """Return a field as it is, uncut: to be measured or hashed, not kept."""
        return self._value.get(key) if isinstance(self._value, dict) else None

    def part(self, *keys: str) -> "Part":
        """Return what lies behind these fields."""
        value: object = self._value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return Part(value, self._cuts)

    def parts(self, key: str) -> "tuple[Part, ...]":
        """Return the elements of a list that are objects."""
        return tuple(Part(item, self._cuts) for item in self._items(key) if isinstance(item, dict))

    def text(self, key: str) -> str:
        """Return a string field; numbers as text."""
        value = self.raw(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._cut(value) if isinstance(value, str) else ""

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the strings in a list."""
        return tuple(self._cut(item) for item in self._items(key) if isinstance(item, str))

    def flag(self, key: str) -> bool | None:
        """Return a boolean field."""
        value = self.raw(key)
        return value if isinstance(value, bool) else None

    def number(self, key: str) -> int | None:
        """Return an integer field."""
        value = self.raw(key)
        return value if _is_safe(value) else None

    def small(self, key: str) -> int | None:
        """Return an integer field that Kubernetes keeps in 32 bits; larger, other clients could not read the event."""
        value = self.number(key)
        return value if value is not None and abs(value) <= scalars.INT32_MAX else None

    def numbers(self, key: str) -> tuple[int, ...]:
        """Return the integers in a list."""
        return tuple(item for item in self._items(key) if _is_safe(item))

    def keys(self, key: str) -> tuple[str, ...]:
        """Return the sorted names inside an object field, never its values."""
        value = self.raw(key)
        names = sorted(ascii_key(name) for name in value) if isinstance(value, dict) else []
        return tuple(self._shorten(names))

    def bytes_in(self, key: str, *, base64: bool) -> int:
        """Return how long the string values of an object field are together, decoded where they are base64."""
        value = self.raw(key)
        if not isinstance(value, dict):
            return 0
        texts = [text for text in value.values() if isinstance(text, str)]
        if base64:
            return sum(len(text.rstrip("=")) * 3 // 4 for text in texts)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def table(self, key: str) -> dict[str, str]:
        """Return an object of strings."""
        value = self.raw(key)
        if not isinstance(value, dict):
            return {}
        found = {ascii_key(name): self._cut(text) for name, text in value.items() if isinstance(text, str)}
        return {name: found[name] for name in self._shorten(sorted(found))}

    def quantities(self, key: str) -> dict[str, str | int]:
        """Return an object of Kubernetes quantities."""
        value = self.raw(key)
        found: dict[str, str | int] = {}
        for name in self._shorten(sorted(value) if isinstance(value, dict) else []):
            plain = _plain(value[name], 0) if isinstance(value, dict) else None
            if _is_safe(plain) or (isinstance(plain, str) and len(plain) <= MAX_TEXT and _quantity.fullmatch(plain)):
                found[ascii_key(name)] = plain
        return found

    def shaped(self, shape: type[W]) -> W | None:
        """Return this value as a type of Kubernetes, or nothing when it is large or has another shape."""
        if not isinstance(self._value, dict):
            return None
        plain = _plain(self._value, 0)
        try:
            if len(msgspec.json.encode(plain)) <= MAX_BLOB_BYTES:
                return msgspec.convert(plain, shape)
        except msgspec.ValidationError:
            pass
        self._cuts.made = True
        return None

    def count(self, key: str) -> int | None:
        """Return the length of a list, None when there is none."""
        value = self.raw(key)
        return len(value) if isinstance(value, list) else None

    def _items(self, key: str) -> list[object]:
        value = self.raw(key)
        return self._shorten(value) if isinstance(value, list) else []

    def _shorten(self, items: list[Any]) -> list[Any]:
        if len(items) > MAX_ITEMS:
            self._cuts.made = True
        return items[:MAX_ITEMS]

    def _cut(self, text: str) -> str:
        if len(text) > MAX_TEXT:
            self._cuts.made = True
        return text[:MAX_TEXT]


def ascii_key(name: object) -> str:
    """Return a key as canonical JSON sorts it alike everywhere: ASCII, other characters escaped."""
    text = str(name)[:MAX_TEXT]
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode()


def _is_safe(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -_SAFE_INTEGER <= value <= _SAFE_INTEGER


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > _SAFE_INTEGER):
        return str(value)
    if depth >= MAX_DEPTH and isinstance(value, Mapping | list):
        return ""
    if isinstance(value, Mapping):
        return {ascii_key(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    return value
