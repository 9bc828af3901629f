"""Events decided but not yet created: which is next. Pure: time is an argument.

Severity decides, then age. What waits is kept as a number; the events themselves are kept only up to a bound, the
rest is read again from the journal when its turn comes. Two events of one name take turns in the order in which they
were decided, so that the same one gets the plain name in every run.
"""

import heapq
from collections import deque

from ugallu.emit.decisions import Item, from_record, ids_of

_RANKS = range(4, -1, -1)
URGENT = 3
"""The rank of high: from here up, the reserved share of the pace is open."""


class Pending:
    """Waiting, in flight and failing items."""

    def __init__(self, *, held: int = 1024) -> None:
        self._bound = held
        self._queues: tuple[deque[int], ...] = tuple(deque() for _ in range(5))
        self._later: list[tuple[float, int, int]] = []
        self._flying: set[int] = set()
        self._condemned: set[int] = set()
        self._ranks: dict[int, int] = {}
        self._items: dict[int, Item] = {}
        self._first: dict[str, int] = {}
        self._behind: dict[str, list[int]] = {}
        self._after: dict[int, list[int]] = {}
        self._waiting: set[int] = set()
        self.derived = 0
        """Summaries among them: these stand in no record of their own and are always held."""

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def findings(self) -> int:
        """How many are findings, not summaries."""
        return len(self._ranks) - self.derived

    @property
    def held(self) -> int:
        """How many findings are kept whole."""
        return len(self._items) - self.derived

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._ranks

    def add(self, item: Item) -> None:
        """Enter an item behind all others of its severity and of its name, and behind the one that it is about."""
        self._ranks[item.id] = item.rank
        if not from_record(item.id):
            self.derived += 1
            self._items[item.id] = item
        elif self.held < self._bound:
            self._items[item.id] = item
        if item.after in self._ranks:
            self._after.setdefault(item.after, []).append(item.id)
            self._waiting.add(item.id)
        if item.name in self._first:
            self._behind.setdefault(item.name, []).append(item.id)
        else:
            self._first[item.name] = item.id
            self._queue(item.id)

    def ready(self, now: float) -> int:
        """Return the highest rank that has something to try now, -1 when there is nothing."""
        while self._later and self._later[0][0] <= now:
            _, _, item_id = heapq.heappop(self._later)
            self._queues[self._ranks[item_id]].appendleft(item_id)
        return next((rank for rank in _RANKS if self._queues[rank]), -1)

    def next(self, rank: int) -> int:
        """Return the id to try next of a rank that is ready; it is then in flight."""
        item_id = self._queues[rank].popleft()
        self._flying.add(item_id)
        return item_id

    def item(self, item_id: int) -> Item | None:
        """Return an item where it is held."""
        return self._items.get(item_id)

    def later(self, item_id: int, due: float) -> None:
        """Try an item in flight again at `due`."""
        self._flying.remove(item_id)
        heapq.heappush(self._later, (due, -self._ranks[item_id], item_id))

    def wanted(self, seq: int) -> list[int]:
        """Return the pending findings of a record that are not held."""
        return [item_id for item_id in ids_of(seq) if item_id in self._ranks and item_id not in self._items]

    def hold(self, item: Item) -> None:
        """Keep a finding that was read again, while there is room."""
        if self.held < self._bound:
            self._items[item.id] = item

    def due(self) -> float:
        """Return when the first failing item is to be tried again, infinite when there is none."""
        return self._later[0][0] if self._later else float("inf")

    @property
    def flying(self) -> int:
        """How many are being created."""
        return len(self._flying)

    def condemn(self, item_id: int) -> None:
        """Never try this item (again): it waits for the record that says so. It need not be known yet."""
        self._flying.discard(item_id)
        self._condemned.add(item_id)

    def settle(self, item_id: int, name: str) -> None:
        """Forget an item: it is created, or never will be. The next of its name may go."""
        self._flying.discard(item_id)
        self._condemned.discard(item_id)
        del self._ranks[item_id]
        self._items.pop(item_id, None)
        if not from_record(item_id):
            self.derived -= 1
        behind = self._behind.get(name, [])
        if self._first[name] != item_id:
            behind.remove(item_id)
        elif behind:
            self._first[name] = behind.pop(0)
            self._queue(self._first[name])
        else:
            del self._first[name]
        if not behind:
            self._behind.pop(name, None)
        for waiting in self._after.pop(item_id, ()):
            self._waiting.discard(waiting)
            if self._first[self._items[waiting].name] == waiting:
                self._queue(waiting)

    def name(self, item_id: int) -> str:
        """Return the name of an item in flight that is not held, the slow way."""
        return next(name for name, first in self._first.items() if first == item_id)

    def _queue(self, item_id: int) -> None:
        if item_id not in self._condemned and item_id not in self._waiting:
            self._queues[self._ranks[item_id]].append(item_id)

    def snapshot(self) -> tuple[list[int], list[Item]]:
        """Return the ids of the findings, and the summaries whole, both in the order of their decision."""
        ids = sorted(i for i in self._ranks if from_record(i))
        return ids, [self._items[i] for i in sorted(self._ranks) if not from_record(i)]
