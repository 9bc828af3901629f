"""Ports that follow their configuration: what they lead to is exchanged when a file, a Secret or WORMConfig changes.

What runs keeps running when the new configuration cannot be followed, and says so. Before there is a store, whoever
asks for it waits: nothing is sealed, and nothing fails.
"""

import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import anyio

from ugallu.api.meta import Condition
from ugallu.api.platform import AttestorConfigSpec, WORMConfig, WORMConfigSpec
from ugallu.clock import comes
from ugallu.cluster.port import View
from ugallu.errors import TransientError, UgalluError
from ugallu.evidence.ports import DatingLog, ElsewhereError, Envelope, EvidenceStore, Lock, LogEntry, PublicKey, Stored
from ugallu.evidence.stores.retention import DEFAULT_RETENTION, Retention, table
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.x509 import Identity
from ugallu.logs import Logger
from ugallu.operator.singletons import CONFIG_NAME, chosen, not_default
from ugallu.runtime.attestor.configs import Closing, Files, Opened, Place, gather, open_all
from ugallu.runtime.attestor.earlier import Earlier

LOOK: Final = 15.0
"""Seconds between two looks at mounted files; the kubelet needs a minute to bring a change."""

OpenStore = Callable[[WORMConfigSpec], "ClosingStore"]


class ClosingStore(EvidenceStore, Closing, Protocol):
    """A store with connections."""


class Live:
    """A Service that keeps the adapters as the configuration has them; build it with adapters that are open."""

    name = "configuration"

    def __init__(
        self,
        wanted: AttestorConfigSpec,
        files: Files,
        opened: Opened,
        place: Place,
        *,
        worm: View[WORMConfig],
        say: Callable[[WORMConfig, Condition], Awaitable[None]],
        open_store: OpenStore,
        log: Logger,
        store: EvidenceStore | None = None,
        told: Callable[[Opened], None] = lambda _: None,
    ) -> None:
        """`store` is what holds until there is a WORMConfig; `told` learns of adapters before they are used.

        `say` writes a condition to a WORMConfig.
        """
        self._wanted = wanted
        self._files = files
        self._place = place
        self._worm = worm
        self._say = say
        self._open_store = open_store
        self._log = log
        self._clock = place.clock
        self._spec: WORMConfigSpec | None = None
        self._store: EvidenceStore | None = store
        self._bucket: ClosingStore | None = None
        own = () if store is None else (store,)
        self._earlier = Earlier(place.state / "stores.json", open_store, log, *own)
        self._told = told
        self._arrived = anyio.Event()
        self._looked = anyio.Event()
        """Whether there is a WORMConfig is known: nothing goes into a store that one is about to replace."""
        self._trouble = ""
        self.now = opened
        """The adapters in use."""
        self.retention: Retention = DEFAULT_RETENTION

    @property
    def reason(self) -> str:
        """What keeps evidence from being sealed, or the newest configuration from being followed; empty: nothing."""
        if self._store is None and not self._trouble:
            return "waiting for WORMConfig/default: evidence needs a store that outlives this Pod"
        return self._trouble

    @property
    def root(self) -> TrustedRoot:
        """What evidence is checked against now."""
        return self.now.root

    async def store(self) -> EvidenceStore:
        """Return the store, once there is one."""
        await self._looked.wait()
        while self._store is None:
            await self._arrived.wait()
        return self._store

    @property
    def store_now(self) -> EvidenceStore:
        """Return the store; raises `TransientError` while there is none."""
        if self._store is None:
            raise TransientError(self.reason, where="evidence store", fix="create WORMConfig/default")
        return self._store

    @property
    def earlier(self) -> tuple[EvidenceStore, ...]:
        """The stores before the one of now, the newest first."""
        return tuple(store for store in self._earlier.stores if store is not self._store)

    async def run(self) -> None:
        """Follow the configuration until cancelled, then let go of everything."""
        changed = anyio.Event()

        def tell(*_: object) -> None:
            changed.set()

        unlisten = self._worm.listen(tell)
        try:
            await self._worm.synced()
            while True:
                changed = anyio.Event()
                await self._look()
                self._looked.set()
                await comes(changed, self._clock, LOOK)
        finally:
            unlisten()
            with anyio.CancelScope(shield=True):
                await _close(*self.now.clients, self._earlier, *([self._bucket] if self._bucket else []))

    async def _look(self) -> None:
        """Take over what has changed; what cannot be followed is told once."""
        trouble = ""
        try:
            await self._follow_files()
            await self._follow_store()
            await self._name_strays()
        except UgalluError as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            self._log.error("cannot be followed; what runs keeps running", error=trouble)
        self._trouble = trouble

    async def _follow_files(self) -> None:
        files = gather(self._wanted, self._place.secrets)
        if files == self._files:
            return
        opened = open_all(self._wanted, files, self._place)
        self._told(opened)
        before, self.now, self._files = self.now, opened, files
        self._log.info("opened anew: a Secret has changed")
        await _close(*before.clients)

    async def _name_strays(self) -> None:
        """Tell each WORMConfig that is not called as it should be."""
        there = list(self._worm.items())
        used = chosen(there)
        for found in there:
            if used is not None and found.metadata.name != CONFIG_NAME:
                await self._say(found, not_default(found, used, self._clock.now()))

    async def _follow_store(self) -> None:
        found = chosen(self._worm.items())
        spec = found.spec if found is not None else None
        if spec is None or spec == self._spec:
            # A config that was deleted: evidence goes on to where its bundles say that it is.
            return
        retention, store = table(spec.retention), self._open_store(spec)
        before, self._bucket, self._spec, self.retention = self._bucket, store, spec, retention
        if before is not None:
            self._log.info("another store: WORMConfig has changed", store=store.endpoint)
            await _close(before)
        await self._earlier.follow(spec)
        self._store = store
        for note in retention.notes:
            self._log.warning("the retention asked for is not what is kept", note=note)
        if spec.quotas is not None:
            self._log.warning("not followed: S3 has no call that says how full a store is", field="spec.quotas")
        self._arrived.set()


class LiveSigner:
    """The signer of one leg."""

    def __init__(self, live: Live, leg: int) -> None:
        self._live = live
        self._leg = leg

    @property
    def mode(self) -> str:
        """As the signer has it."""
        return self._live.now.legs[self._leg].signer.mode

    @property
    def signs_as(self) -> tuple[PublicKey | Identity, ...]:
        """As the signer has it."""
        return self._live.now.legs[self._leg].signer.signs_as

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign with the signer of now."""
        return await self._live.now.legs[self._leg].signer.sign(payload_type, payload)

    async def public_key(self) -> PublicKey | None:
        """As the signer has it."""
        return await self._live.now.legs[self._leg].signer.public_key()


class LiveLog:
    """The log."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @property
    def trusted_root(self) -> dict[str, object]:
        """As the log has it."""
        return self._live.now.log.trusted_root

    async def add(self, envelope: Envelope) -> LogEntry:
        """Log to the log of now."""
        return await self._live.now.log.add(envelope)

    async def has(self, envelope: Envelope) -> bool:
        """Ask the log of now; one that signs no time takes everything in time, as if it had it."""
        log = self._live.now.log
        return not isinstance(log, DatingLog) or await log.has(envelope)

    async def remembers(self, size: int, root: bytes, origin: str = "") -> bool:
        """Ask the log of now."""
        return await self._live.now.log.remembers(size, root, origin)


class LiveAuthority:
    """The timestamp authority."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def stamp(self, signature: bytes) -> bytes:
        """Ask the authority of now."""
        authority = self._live.now.authority
        assert authority is not None, "a config without an authority is another build"
        return await authority.stamp(signature)


class Leading(Protocol):
    """What knows which store is the one of now."""

    @property
    def store_now(self) -> EvidenceStore:
        """The store; raises `TransientError` while there is none."""
        ...

    async def store(self) -> EvidenceStore:
        """The store, once there is one."""
        ...


class LiveStore:
    """The store; whoever uses it before there is one waits."""

    def __init__(self, live: Leading, earlier: Callable[[], Sequence[EvidenceStore]] = tuple) -> None:
        """`earlier` are the stores before the one of now."""
        self._live = live
        self._earlier = earlier
        self._left: dict[str, EvidenceStore] = {}
        """Where what is not finished yet was found, by key, if not in the store of now."""

    @property
    def endpoint(self) -> str:
        """As the store has it."""
        return self._live.store_now.endpoint

    @property
    def lock(self) -> Lock:
        """As the store has it."""
        return self._live.store_now.lock

    def key(self, url: str) -> str:
        """As the store has it."""
        return self._live.store_now.key(url)

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store in the store of now."""
        return await (await self._live.store()).put(key, content, media_type=media_type, until=until)

    async def get(self, key: str) -> bytes:
        """Read from the store of now."""
        return await (await self._live.store()).get(key)

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Read from the store of now."""
        return await (await self._live.store()).read(key)

    async def stat(self, key: str) -> Stored | None:
        """Ask the store of now."""
        return await (await self._live.store()).stat(key)

    async def extend(self, key: str, until: dt.datetime) -> Stored:
        """Ask the store of now."""
        return await (await self._live.store()).extend(key, until)

    async def hold(self, key: str, *, on: bool) -> Stored:
        """Ask the store of now."""
        return await (await self._live.store()).hold(key, on=on)

    async def drop(self, key: str) -> None:
        """Ask the store of now, and the one before it if something was left there."""
        await (await self._live.store()).drop(key)
        if (before := self._left.pop(key, None)) is not None:
            with contextlib.suppress(UgalluError):
                await before.drop(key)

    def of(self, url: str) -> EvidenceStore:
        """Return the store, of now or earlier, that a URL is of."""
        now = self._live.store_now
        for store in (now, *self._earlier()):
            with contextlib.suppress(ElsewhereError):
                store.key(url)
                return store
        raise ElsewhereError(f"of no store that is in use, or was: not {now.endpoint}", where=url[:200])

    async def left(self, key: str) -> bytes | None:
        """Return what was left in a store before this one; one that cannot be asked has nothing."""
        for store in self._earlier():
            with contextlib.suppress(UgalluError):
                if await store.stat(key) is not None:
                    content = await store.get(key)
                    self._left[key] = store
                    return content
        return None


async def _close(*things: Closing) -> None:
    for thing in things:
        await thing.aclose()
