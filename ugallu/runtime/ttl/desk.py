"""What the reconcilers of all kinds share: windows, time, store, pace, and whom to tell."""

import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.meta import Resource
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, NotFoundError, Preconditions
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.pace import TokenBucket
from ugallu.runtime.ttl import notes
from ugallu.runtime.ttl.archive import Archive
from ugallu.runtime.ttl.chain import Chain
from ugallu.runtime.ttl.evidence import keys_of
from ugallu.runtime.ttl.expiry import Now, Reason
from ugallu.runtime.ttl.family import Families
from ugallu.runtime.ttl.marks import Bundle, Event, Response, whole
from ugallu.runtime.ttl.trust import Trust
from ugallu.runtime.ttl.vault import Vault
from ugallu.runtime.ttl.windows import Windows


@dataclass(frozen=True, slots=True)
class Safe:
    """The store, and what is done with it."""

    vault: Vault
    archive: Archive
    chain: Chain


AHEAD: Final = dt.timedelta(days=7)
"""How long before its end the lock of evidence that is still needed is renewed; no class is kept for under 14 days."""

Tell = Callable[[str, Reason, str], Awaitable[None]]
"""Says that objects of a kind cannot go, for a reason, with the words of one of them."""


class Desk:
    """Shared by the reconcilers of one set of Parts."""

    def __init__(
        self,
        cluster: Cluster,
        families: Families,
        windows: Windows,
        trust: Trust,
        safe: Safe,
        *,
        cluster_id: str,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        tell: Tell,
    ) -> None:
        self.cluster = cluster
        self.families = families
        self.windows = windows
        self.safe = safe
        self.cluster_id = cluster_id
        self.clock = clock
        self.metrics = metrics
        self.log = log
        self.tell = tell
        self._trust = trust
        self._bucket = TokenBucket(windows.rate, max(1.0, windows.rate)) if windows.rate > 0 else None

    def now(self) -> Now:
        """Return the time as far as it is certain."""
        return self._trust.now(self.clock.now(), self.clock.monotonic())

    async def pace(self) -> None:
        """Wait for one's turn, where the config sets a rate."""
        while self._bucket is not None and not self._bucket.take(self.clock.monotonic()):
            await self.clock.sleep(self._bucket.wait(self.clock.monotonic()))

    def after(self, moment: dt.datetime) -> float:
        """Return the seconds until a moment, by the clock that is certain."""
        return (moment - self.now().low).total_seconds()

    def settling(self, moment: dt.datetime) -> float:
        """Return the seconds until a moment that was written down by `Now.line`."""
        return (moment - self.now().line).total_seconds()

    async def hold_in_store(self, item: Resource, *, on: bool) -> None:
        """Have the blobs of a family held in the store exactly while one of the family is under legal hold.

        Whether they are is asked of the store, at each look: what a bundle says of it anybody may have written.
        """
        if self.safe.vault.missing or not isinstance(item, Event | Response | Bundle):
            return
        for member in tuple(self.families.members(item)):
            if not isinstance(member, Bundle) or member.status.phase is not BundlePhase.SEALED:
                continue
            if on or _is_held(member):
                await self._hold(self.safe, member, on=on)

    async def keep_in_store(self, item: Resource) -> None:
        """Have a bundle's evidence locked as long as what is sealed now, once its own lock is about to end.

        A lock begins with the seal, and what it proves may stay longer: by its window, a hold, or a try in vain.
        """
        if self.safe.vault.missing or not isinstance(item, Bundle) or item.status.phase is not BundlePhase.SEALED:
            return
        now = self.now().low
        until = self.safe.vault.until(now)
        if item.status.sealed_at is None or now < item.status.sealed_at + (until - now) - AHEAD:
            return
        try:
            bundle = await self.cluster.get(AttestationBundle, item.metadata.name)
        except NotFoundError:
            return
        await self.safe.archive.keep(sorted(keys_of(self.safe.vault, bundle)), least=AHEAD, until=until)

    async def _hold(self, safe: Safe, mark: Bundle, *, on: bool) -> None:
        try:
            bundle = await self.cluster.get(AttestationBundle, mark.metadata.name)
        except NotFoundError:
            return
        others = [other for other in self.families.sharing(mark) if self.families.held_by(other)]
        # What was sealed together stays held as long as one of them is.
        keys = set() if others and not on else set(keys_of(safe.vault, bundle))
        keys.add(bundle.metadata.annotations.get(notes.PARENT_SNAPSHOT, ""))
        for member in tuple(self.families.members(mark)):
            keys.add(member.metadata.annotations.get(notes.SNAPSHOT, ""))
            if isinstance(member, Event | Response):
                keys |= {safe.archive.key(url) for url in await self._evidence_of(member)}
        blobs = await safe.archive.hold(sorted(keys - {""}), on=on)
        if _is_held(mark) is not on:
            await self.annotate(bundle, {notes.STORE_HELD: "true" if on else None})
        if blobs or _is_held(mark) is not on:
            self.log.info("legal hold in the store", bundle=bundle.metadata.name, on=on, blobs=blobs)

    async def _evidence_of(self, member: Event | Response) -> list[str]:
        """Return the URLs of the blobs that an event or a response refers to: snapshots of forensics."""
        try:
            item = await self.cluster.get(whole(member.kind_info), member.metadata.name)
        except NotFoundError:
            return []
        part = item.spec if isinstance(member, Event) else item.status
        listed = part.get("evidence", []) if isinstance(part, dict) else []
        return [ref["url"] for ref in listed if isinstance(ref, dict) and isinstance(ref.get("url"), str)]

    async def annotate(self, item: Resource, changes: dict[str, str | None], *, version: str = "") -> Resource | None:
        """Change annotations of exactly this object, at this version if one is given; None when it is gone."""
        meta = item.metadata
        kind = whole(item.kind_info)
        when = Preconditions(uid=meta.uid, resource_version=version)
        try:
            return await self.cluster.patch(
                kind, meta.name, {"metadata": {"annotations": changes}}, meta.namespace, when=when
            )
        except NotFoundError:
            return None


def _is_held(bundle: Bundle) -> bool:
    return bundle.metadata.annotations.get(notes.STORE_HELD) == "true"
