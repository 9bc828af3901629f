"""How much memory cached objects take: a sample of them is weighed in full, the rest is taken to be like it."""

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec

EVERY: Final = 16
"""One object in so many is weighed, after as many that all are."""


def weigh(value: Any) -> int:  # noqa: ANN401 - a Struct and whatever is in it
    """Return the bytes of a Struct with all that it holds; what all objects share (defaults, enums) weighs nothing."""
    if value is None or isinstance(value, bool | Enum):
        return 0
    size = sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        names, defaults = value.__struct_fields__, value.__struct_defaults__
        plain = (msgspec.NODEFAULT,) * (len(names) - len(defaults))
        held = ((getattr(value, name), default) for name, default in zip(names, plain + defaults, strict=True))
        return size + sum(weigh(item) for item, default in held if item is not default)
    if isinstance(value, Mapping):
        # Keys repeat from object to object, and decoding makes each of them once.
        return size + sum(map(weigh, value.values()))
    if isinstance(value, tuple | list | set | frozenset):
        return size + sum(map(weigh, value)) if value else 0
    return size


class Scales:
    """The mean weight of the objects that come in; recent ones count for more."""

    def __init__(self) -> None:
        self.mean = 0.0
        """Bytes an object; 0 before the first."""
        self._seen = 0

    def put(self, value: msgspec.Struct) -> bool:
        """Take note of an object that came in; tell whether the mean has moved."""
        self._seen += 1
        if self._seen > EVERY and self._seen % EVERY:
            return False
        self.mean += (weigh(value) - self.mean) / min(self._seen, EVERY)
        return True
