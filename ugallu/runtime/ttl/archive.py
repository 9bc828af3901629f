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
        await self._store.put(key, content, media_type=MEDIA_TYPE, until=until)
        # What a put answers may be what was asked for, not what is kept.
        stored, kept = await self._store.read(key)
        if kept != content:
            raise IntegrityError("the store does not hold this object as it is", where=key)
        if stored.until is None or stored.until < until - dt.timedelta(seconds=1):
            raise IntegrityError("the store keeps it for less long than asked", where=key)
        return key

    async def compare(self, key: str, item: Whole) -> None:
        """Read a copy back; raises `IntegrityError` unless it is this object as it is now."""
        if await self._store.get(key) != snapshot(item):
            raise IntegrityError("the store does not hold this object as it is", where=key)

    async def keep(self, keys: Iterable[str], *, least: dt.timedelta, until: dt.datetime | None = None) -> None:
        """Have these kept for so long at least, those that are not until a date: evidence outlives what it proves.

        Raises `IntegrityError` where the store keeps one for less long all the same.
        """
        soonest = self._clock.now() + least
        until = soonest if until is None else until
        for key in keys:
            there = await self._store.stat(key)
            if there is not None and (there.until is None or there.until < soonest):
                there = await self._store.extend(key, until)
                if there.until is None or there.until < until - dt.timedelta(seconds=1):
                    raise IntegrityError("the store keeps it for less long than asked", where=key)

    async def hold(self, keys: Iterable[str], *, on: bool) -> int:
        """Put keys under legal hold, or lift it, and return for how many that was news to the store.

        What is not there cannot be held, and is no error.
        """
        changed = 0
        for key in keys:
            there = await self._store.stat(key)
            if there is not None and there.held is not on:
                await self._store.hold(key, on=on)
                changed += 1
        return changed

    def key(self, url: str) -> str:
        """Return the key behind a URL, empty for one of another store."""
        try:
            return self._store.key(url)
        except PermanentError:
            return ""
