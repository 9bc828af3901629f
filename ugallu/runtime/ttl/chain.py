"""The list of what was archived, as a chain that nobody can shorten unseen.

Every few seconds the copies made since are written down in a manifest: their keys and digests, the Merkle root over
them (RFC 6962), and the manifest before. Nothing is deleted before a manifest that names its copy is stored and read
back. Once a day the head is the evidence of an event of its own, which the attestor signs and logs.

    cr-snapshots/<cluster>/<YYYY>/<MM>/manifests/<number>.json     staging/ttl-chain.json   the head
"""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from ugallu.clock import Clock
from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.copies import MEDIA_TYPE, SCHEMA, Entry, Link, Manifest, root_of
from ugallu.evidence.ports import EvidenceStore, IntegrityError, Stored
from ugallu.logs import Logger
from ugallu.runtime.ttl.snapshot import FOLDER

EVERY: Final = 15.0
"""Seconds between two manifests, while there is something to list."""
MOST: Final = 4096
"""Copies in one manifest."""
HEAD: Final = "staging/ttl-chain.json"


class Head(msgspec.Struct, frozen=True, rename="camel"):
    """Where the chain ends."""

    number: int
    key: str
    sha256: str
    day: str
    """UTC, `YYYY-MM-DD`."""
    told: str = ""
    """The last day whose head was made an event."""


class Chain:
    """A Service; `lists` is asked before each deletion."""

    name = "chain"

    def __init__(
        self,
        store: EvidenceStore,
        cluster_id: str,
        clock: Clock,
        log: Logger,
        *,
        tell: Callable[[Head, Stored], Awaitable[None]],
        until: Callable[[dt.datetime], dt.datetime],
    ) -> None:
        """`tell` makes an event of the last head of a day."""
        self._store = store
        self._cluster_id = cluster_id
        self._clock = clock
        self._log = log
        self._tell = tell
        self._until = until
        self._waiting: dict[str, Entry] = {}
        self._listed: dict[str, str] = {}
        """Digests by key, of what this process listed: what another one did is listed once more, which harms nobody."""

    def lists(self, entry: Entry) -> bool:
        """Tell whether a manifest names this copy; if none does, the next one will."""
        if self._listed.get(entry.key) == entry.sha256:
            return True
        self._waiting[entry.key] = entry
        return False

    def forget(self, key: str) -> None:
        """The object behind this copy is gone."""
        self._listed.pop(key, None)

    async def run(self) -> None:
        """Write manifests until cancelled."""
        while True:
            await self._clock.sleep(EVERY)
            try:
                await self.turn()
            except UgalluError as error:
                # Nothing is deleted meanwhile, which objects say of themselves.
                self._log.warning("no manifest written", error=str(error))

    async def turn(self) -> None:
        """List what waits, and tell of a day that is over."""
        head = await self._head()
        day = f"{self._clock.now():%Y-%m-%d}"
        if head is not None and head.day < day and head.told < head.day:
            head = await self._told(head)
        while self._waiting:
            batch = tuple(self._waiting.values())[:MOST]
            head = await self._write(head, batch, day)
            for entry in batch:
                self._listed[entry.key] = entry.sha256
                if self._waiting.get(entry.key) == entry:
                    del self._waiting[entry.key]

    async def _write(self, head: Head | None, entries: tuple[Entry, ...], day: str) -> Head:
        now = self._clock.now()
        number = 1 if head is None else head.number + 1
        manifest = Manifest(
            schema=SCHEMA,
            cluster_id=self._cluster_id,
            number=number,
            created_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            root=root_of(entries),
            entries=entries,
            previous=None if head is None else Link(head.key, head.sha256),
        )
        content = canonical(manifest)
        # By its digest as well: a manifest whose head was never written down is no obstacle, and no secret.
        name = f"{number:010d}-{digest(content).removeprefix('sha256:')[:12]}.json"
        key = f"{FOLDER}/{self._cluster_id or 'unknown'}/{now:%Y/%m}/manifests/{name}"
        stored = await self._store.put(key, content, media_type=MEDIA_TYPE, until=self._until(now))
        if await self._store.get(key) != content:
            raise IntegrityError("the store does not hold what was put", where=key)
        told = "" if head is None else head.told
        return await self._put_head(Head(number, key, stored.sha256, day, told))

    async def _told(self, head: Head) -> Head:
        stored = await self._store.stat(head.key)
        if stored is None or stored.sha256 != head.sha256:
            raise IntegrityError("the last manifest is gone, or is another one", where=head.key)
        await self._tell(head, stored)
        return await self._put_head(msgspec.structs.replace(head, told=head.day))

    async def _put_head(self, head: Head) -> Head:
        await self._store.put(HEAD, msgspec.json.encode(head), media_type="application/json", until=None)
        return head

    async def _head(self) -> Head | None:
        if await self._store.stat(HEAD) is None:
            return None
        try:
            return msgspec.json.decode(await self._store.get(HEAD), type=Head)
        except msgspec.DecodeError as error:
            raise PermanentError("the head of the chain cannot be read", where=HEAD) from error


def last_moment(day: str) -> dt.datetime:
    """Return the end of a day, `YYYY-MM-DD`: what is said of it bears this time, whenever it is said."""
    return dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC) + dt.timedelta(days=1)
