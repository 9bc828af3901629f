"""The evidence as ttl sees it: a store to archive into, and whether a bundle's evidence is there and verifies.

The same store that the attestor writes to, by the same WORMConfig; without one the directory in the state, where
evidence may lie there. Where there is neither, nothing is ever deleted.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import anyio

from ugallu.api.bundle import AttestationBundle
from ugallu.api.platform import WORMConfig, WORMConfigSpec
from ugallu.clock import Clock
from ugallu.cluster.port import View
from ugallu.errors import TransientError, UgalluError
from ugallu.evidence import roll, trusted_root
from ugallu.evidence.ports import EvidenceStore, PublicKey
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.retention import DEFAULT_RETENTION, Class, Retention, table
from ugallu.evidence.trust import Trust
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.x509 import Identity
from ugallu.logs import Logger
from ugallu.operator.contract import Service
from ugallu.operator.platform import Platform
from ugallu.operator.shared import Lent
from ugallu.operator.singletons import chosen
from ugallu.runtime.attestor.choose import FOLDER, bucket, directory, merged, published
from ugallu.runtime.attestor.configs import ROOT_KEY, ROOT_SECRET
from ugallu.runtime.attestor.live import ClosingStore, LiveStore
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.publish import SIGNERS

NO_STORE: Final = "no evidence store is configured, so nothing is archived and nothing is deleted"
REMEMBERED: Final = 60.0
"""Seconds for which the signers that the store names are not read again."""


class Vault(Protocol):
    """A store, and the word of the evidence in it."""

    @property
    def store(self) -> EvidenceStore:
        """Where copies are kept."""
        ...

    @property
    def missing(self) -> str:
        """What keeps it from being used, empty when nothing does."""
        ...

    @property
    def services(self) -> tuple[Service, ...]:
        """What must run for it."""
        ...

    def until(self, now: dt.datetime) -> dt.datetime:
        """Return the date to keep something to that is copied now."""
        ...

    async def confirm(self, bundle: AttestationBundle) -> None:
        """Read back and verify what a sealed bundle names; raises `IntegrityError` unless it is that evidence."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


class Bucket:
    """A Service that keeps the store as WORMConfig has it; until there is one, `local`, if there is that."""

    name = "store"

    def __init__(
        self,
        configs: View[WORMConfig],
        open_store: Callable[[WORMConfigSpec], ClosingStore],
        log: Logger,
        local: EvidenceStore | None,
    ) -> None:
        self._configs = configs
        self._open_store = open_store
        self._log = log
        self._local = local
        self._spec: WORMConfigSpec | None = None
        self._opened: ClosingStore | None = None
        self._trouble = ""
        self.retention: Retention = DEFAULT_RETENTION

    @property
    def missing(self) -> str:
        """What keeps the store from being used."""
        if self._opened is None and self._local is None:
            return self._trouble or NO_STORE
        return ""

    @property
    def store_now(self) -> EvidenceStore:
        """The store; raises `TransientError` while there is none."""
        found = self._opened or self._local
        if found is None:
            raise TransientError(self.missing, where="evidence store", fix="create WORMConfig/default")
        return found

    async def store(self) -> EvidenceStore:
        """The store; nobody waits for one here, objects say that there is none."""
        return self.store_now

    async def run(self) -> None:
        """Follow the configuration until cancelled."""
        changed = anyio.Event()

        def tell(*_: object) -> None:
            changed.set()

        unlisten = self._configs.listen(tell)
        try:
            await self._configs.synced()
            while True:
                changed = anyio.Event()
                await self._look()
                await changed.wait()
        finally:
            unlisten()
            if self._opened is not None:
                with anyio.CancelScope(shield=True):
                    await self._opened.aclose()

    async def _look(self) -> None:
        found = chosen(self._configs.items())
        # A config that was deleted: what was copied goes on to be where objects say that it is.
        if found is None or found.spec == self._spec:
            return
        try:
            retention, store = table(found.spec.retention), self._open_store(found.spec)
        except UgalluError as error:
            self._trouble = str(error)
            self._log.error("WORMConfig cannot be followed; what is open stays", error=self._trouble)
            return
        before, self._opened, self._spec, self.retention = self._opened, store, found.spec, retention
        self._trouble = ""
        if before is not None:
            await before.aclose()


class SharedVault:
    """The store that ttl shares with the attestor, wherever that runs.

    `folder` is where an attestor of this process keeps its evidence, and publishes what that is to be verified with.
    """

    def __init__(
        self, leading: Bucket, secrets: Path, folder: Path, lent: Lent[DirectoryStore] | None, clock: Clock
    ) -> None:
        self._leading = leading
        self._mounted = secrets / ROOT_SECRET / ROOT_KEY
        self._folder = folder
        self._lent = lent
        self._clock = clock
        self._signers: tuple[float, str, tuple[PublicKey | Identity, ...]] | None = None
        self.store: EvidenceStore = LiveStore(leading)

    @property
    def missing(self) -> str:
        """What keeps the store from being used."""
        return self._leading.missing

    @property
    def services(self) -> tuple[Service, ...]:
        """What follows the configuration."""
        return (self._leading,)

    def until(self, now: dt.datetime) -> dt.datetime:
        """As long as bundles are kept."""
        return self._leading.retention.until(Class.BUNDLE, now)

    async def confirm(self, bundle: AttestationBundle) -> None:
        """Verify under the trusted root that is mounted here, and the signers that the attestor names in the store.

        What an attestor of this process sealed with its own key and log is verified with what it publishes.
        """
        before = published(self._folder)
        trust = Trust(self._trusted_root(before.root), (*await self._named(), *before.signers))
        archived = bundle.status.worm_ref
        here = self._lent is not None and archived is not None and archived.url.startswith("file:")
        store = self._lent.value if here and self._lent is not None else self.store
        await confirm_in(store, lambda content, subject: trust.check(content, subject=subject), bundle)

    def close(self) -> None:
        """Give the directory back."""
        if self._lent is not None:
            self._lent.give_back()

    def _trusted_root(self, before: TrustedRoot) -> TrustedRoot:
        try:
            content = self._mounted.read_bytes()
        except OSError as error:
            if before.logs:
                return before
            raise TransientError(
                f"the trusted root cannot be read: {error.strerror}",
                where=str(self._mounted),
                fix=f"mount the Secret {ROOT_SECRET}, as for the attestor, or run beside one",
            ) from error
        return merged(trusted_root.read(content), before)

    async def _named(self) -> tuple[PublicKey | Identity, ...]:
        """Return who signs, as the store says; who was there a minute ago still is."""
        now, endpoint = self._clock.monotonic(), self.store.endpoint
        if self._signers is None or self._signers[1] != endpoint or now - self._signers[0] > REMEMBERED:
            there = await self.store.stat(SIGNERS)
            named = () if there is None else roll.read(await self.store.get(SIGNERS), where=SIGNERS)
            self._signers = now, endpoint, named
        return self._signers[2]


def vault(platform: Platform) -> Vault:
    """Return the vault of this platform.

    Raises `RefusedError` when another process writes to the directory, `TransientError` when the disk refuses.
    """
    secrets, folder = Path(platform.settings.secrets), platform.state / FOLDER
    lent = None
    if platform.cluster.embedded or platform.settings.evidence == "local":
        lent = directory(folder, platform)
    leading = Bucket(
        platform.cache.view(WORMConfig, namespace=platform.namespace),
        lambda spec: bucket(spec, secrets, platform.clock),
        platform.log,
        None if lent is None else lent.value,
    )
    return SharedVault(leading, secrets, folder, lent, platform.clock)
