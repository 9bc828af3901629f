"""What several operators of one process use and only one of them can open: a directory with one writer.

The first who takes it opens it, the last who gives it back closes it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    value: Any
    users: int = 1


class Lent(Generic[T]):
    """A thing in use; `give_back` once done, a second time does nothing."""

    def __init__(self, value: T, give_back: Callable[[], None]) -> None:
        self.value = value
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        """Say that it is used no more."""
        done, self._give_back = self._give_back, None
        if done is not None:
            done()


class Shared:
    """What is open in this process, by name. Parts are closed in worker threads, so any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def take(self, name: str, make: Callable[[], T], end: Callable[[T], None]) -> Lent[T]:
        """Return what bears the name, made by `make` if nobody uses it now; `end` closes it after its last user.

        What `make` raises is raised here, and nothing is kept.
        """
        with self._lock:
            held = self._open.get(name)
            if held is None:
                held = self._open[name] = _Open(make())
            else:
                held.users += 1
            return Lent(held.value, lambda: self._done(name, end))

    def _done(self, name: str, end: Callable[[T], None]) -> None:
        with self._lock:
            held = self._open[name]
            held.users -= 1
            if not held.users:
                del self._open[name]
                end(held.value)
