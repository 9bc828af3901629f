"""Who signs here, written into the store for those who read it beside us: ttl proves evidence before it deletes.

Only the list of signers lies there, and it only grows. What it is worth rests on the trusted root, which each reader
has by another way, and on who may write to the bucket and create bundles.
"""

from collections.abc import Callable
from typing import Final

from ugallu.clock import Clock
from ugallu.errors import UgalluError
from ugallu.evidence import roll
from ugallu.evidence.ports import EvidenceStore, PublicKey
from ugallu.evidence.x509 import Identity
from ugallu.logs import Logger

SIGNERS: Final = "staging/signers.json"
EVERY: Final = 15.0


class Publisher:
    """A Service."""

    name = "signers"

    def __init__(
        self,
        store: EvidenceStore,
        signers: Callable[[], tuple[PublicKey | Identity, ...]],
        *,
        clock: Clock,
        log: Logger,
    ) -> None:
        self._store = store
        self._signers = signers
        self._clock = clock
        self._log = log
        self._published: tuple[str, tuple[PublicKey | Identity, ...]] | None = None

    async def run(self) -> None:
        """Write what is new, until cancelled."""
        while True:
            try:
                await self.turn()
            except UgalluError as error:
                self._log.info("signers not published; trying again", error=str(error))
            await self._clock.sleep(EVERY)

    async def turn(self) -> None:
        """Write the signers, if they or the store are others than before."""
        now = self._signers()
        there = await self._store.stat(SIGNERS)
        if there is not None and self._published == (self._store.endpoint, now):
            return
        before = () if there is None else roll.read(await self._store.get(SIGNERS), where=SIGNERS)
        if there is None or set(now) - set(before):
            content = roll.written((*before, *now))
            await self._store.put(SIGNERS, content, media_type="application/json", until=None)
        self._published = self._store.endpoint, now
