"""Copies into the evidence store: put, read back, compared, kept at least so long; held, and let go again."""

import datetime as dt
from collections.abc import Callable, Iterable

from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import EvidenceStore, IntegrityError
from ugallu.runtime.ttl.marks import Whole
from ugallu.runtime.ttl.snapshot import MEDIA_TYPE, key_of, snapshot


class Archive:
    """What ttl does with the store."""

    def __init__(self, store: EvidenceStore, until: Callable[[dt.datetime], dt.datetime], clock: Clock) -> None:
        """`until` tells to which date something is kept that is copied now."""
        self._store = store
        self._until = until
        self._clock = clock

    async def save(self, item: Whole, cluster_id: str) -> str:
        """Keep a copy of the object and return its key; raises `IntegrityError` unless it can be read back."""
        content = snapshot(item)
        key = key_of(item, cluster_id, content)
        there = await self._store.stat(key)
        if there is not None and there.sha256 != digest(content):
            # It was copied before, and has changed since: the earlier copy stays what it is.
            key = key_of(item, cluster_id, content, again=True)
        # The store counts in whole seconds, and may round down.
        until = self._until(self._clock.now())
        stored = await self._store.put(key, content, media_type=MEDIA_TYPE, until=until)
        if stored.until is None or stored.until < until - dt.timedelta(seconds=1):
            raise IntegrityError("the store keeps it for less long than asked", where=key)
        await self.compare(key, item)
        return key

    async def compare(self, key: str, item: Whole) -> None:
        """Read a copy back; raises `IntegrityError` unless it is this object as it is now."""
        if await self._store.get(key) != snapshot(item):
            raise IntegrityError("the store does not hold this object as it is", where=key)

    async def keep(self, keys: Iterable[str], seconds: float) -> None:
        """Have these kept for so long at least: evidence outlives what it proves."""
        until = self._clock.now() + dt.timedelta(seconds=seconds)
        for key in keys:
            there = await self._store.stat(key)
            if there is not None and (there.until is None or there.until < until):
                await self._store.extend(key, until)

    async def hold(self, keys: Iterable[str], *, on: bool) -> None:
        """Put keys under legal hold, or lift it; what is not there cannot be held, and is no error."""
        for key in keys:
            there = await self._store.stat(key)
            if there is not None and there.held is not on:
                await self._store.hold(key, on=on)

    def key(self, url: str) -> str:
        """Return the key behind a URL, empty for one of another store."""
        try:
            return self._store.key(url)
        except PermanentError:
            return ""
