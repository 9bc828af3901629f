"""The attestor over services in memory, as a process that lives and dies: all that outlives it is a `World`.

Keys, trees, certificates and timestamps are real, and so is every check; what goes wrong is said by a `Trouble`.
"""

import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

import anyio
import structlog

from ugallu.api.bundle import AttestationBundle, BundlePhase, SigningMode
from ugallu.api.event import ClusterIdentity, EventPhase
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Metadata
from ugallu.api.platform import (
    FulcioConfig,
    OpenBaoConfig,
    OpenBaoKeyType,
    RekorConfig,
    TimestampAuthorityConfig,
    WORMConfig,
    WORMConfigSpec,
)
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import Cluster
from ugallu.cluster.through import Asked
from ugallu.errors import UgalluError
from ugallu.evidence import trusted_root
from ugallu.evidence.trust import Trust
from ugallu.metrics import Metrics
from ugallu.operator.contract import Parts, Service
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.configs import Wanted
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.publish import SIGNERS
from ugallu.runtime.attestor.reseal import Reseal
from ugallu.settings import KubernetesSettings, Settings
from ugallu.testing.cluster import memory_cluster, running_cache
from ugallu.testing.openbao import FakeOpenBao
from ugallu.testing.rekor_v2 import FakeRekorV2
from ugallu.testing.sealing import Recorder
from ugallu.testing.sigstore import WHO, FakeSigstore, chain, token
from ugallu.testing.trouble import OurClock, Trouble, TroubledCluster, TroubledPeer, TroubledStore, TrueClock

NAMESPACE: Final = "ugallu-system"
ROUNDS: Final = 60
ENOUGH: Final = 40
"""Rounds, an hour in all, after which whoever has no trouble any more is done."""


class Shape(NamedTuple):
    """What is sealed, by whom, and where it is logged."""

    mode: SigningMode
    generation: int
    stamped: bool
    events: int
    burst: bool

    @property
    def legs(self) -> int:
        """How many sign each statement."""
        return 2 if self.mode is SigningMode.DUAL else 1


class World:
    """Everything that outlives the process: services, store, cluster, the state directory."""

    def __init__(self, shape: Shape, folder: Path, true: TrueClock, behind: Cluster) -> None:
        """`behind` is the cluster without trouble, by the true clock; empty."""
        self.shape = shape
        self.folder = folder
        self.true = true
        self.clock = OurClock(true)
        self.trouble = Trouble(self.clock)
        self.sigstore = FakeSigstore(self.true)
        self.rekor2 = FakeRekorV2()
        self.bao = FakeOpenBao(self.true)
        self.store = TroubledStore(self.true, lambda: self.trouble)
        self.behind = behind
        self.cluster = TroubledCluster(self.behind, lambda: self.trouble, self._told)
        self.wrong: list[str] = []
        """What was called sealed and did not verify, or did not go on."""
        self.emitter = Recorder()
        (folder / "account").mkdir(parents=True)
        self.bao.accepted = token(audience="https://kubernetes.default.svc")
        (folder / "account" / "token").write_text(self.bao.accepted)
        (folder / "oidc").write_text(token())
        (folder / "secrets" / "ugallu-trusted-root").mkdir(parents=True)
        (folder / "secrets" / "ugallu-trusted-root" / "trusted-root.json").write_bytes(self.root)

    @functools.cached_property
    def root(self) -> bytes:
        """The trusted root of all services."""
        return trusted_root.write(
            [trusted_root.element(log) for log in (self.sigstore.rekor.log, self.rekor2.log)],
            authorities=[chain(self.sigstore.fulcio.root)],
            certificate_logs=[trusted_root.element(self.sigstore.fulcio.certificate_log)],
            timestamp_authorities=[chain(self.sigstore.authority.leaf, self.sigstore.authority.root)],
        )

    @property
    def trust(self) -> Trust:
        """What a stranger believes: the root, our account's name, and every version of the key."""
        return Trust(trusted_root.read(self.root), (WHO, *self.bao.published))

    @property
    def entries(self) -> list[bytes]:
        """What was logged."""
        return self.sigstore.rekor.bodies if self.shape.generation == 1 else self.rekor2.bodies

    @property
    def wanted(self) -> Wanted:
        """The AttestorConfig."""
        log = {1: "https://rekor.test", 2: "https://rekor2.test"}[self.shape.generation]
        return Wanted(
            signing_mode=self.shape.mode,
            fulcio=FulcioConfig(
                issuer=WHO.issuer, fulcio_url="https://fulcio.test", oidc_token_path=str(self.folder / "oidc")
            ),
            openbao=OpenBaoConfig(
                address="https://openbao.test",
                key_name="ugallu",
                auth_role="attestor",
                key_type=OpenBaoKeyType.ECDSA_P256,
            ),
            rekor=RekorConfig(url=log, api_version=self.shape.generation),
            timestamp_authority=TimestampAuthorityConfig(url="https://tsa.test") if self.shape.stamped else None,
        )

    def connect(self, url: str, **_: object) -> TroubledPeer:
        """Return a connection to the service at a URL."""
        mine = self.sigstore
        services = {peer.host: peer for peer in (mine.fulcio, mine.rekor, mine.authority, self.rekor2, self.bao)}
        return TroubledPeer(services[url.split("/")[2]], self.trouble)

    async def _told(self, asked: Asked) -> None:
        """Verify what is called sealed in the moment in which it is."""
        if asked.kind.kind_info != AttestationBundle.kind_info:
            return
        bundle = await self.behind.get(AttestationBundle, asked.name)
        if bundle.status.phase is not BundlePhase.SEALED:
            return
        try:
            await self.verify(bundle)
        except UgalluError as error:
            self.wrong.append(f"{asked.name} is called sealed: {error}")

    async def verify(self, bundle: AttestationBundle) -> None:
        """Verify what a bundle names, as a stranger would; raises what is wrong."""
        await confirm_in(Quiet(self.store), lambda b, s: self.trust.check(b, subject=s), bundle)


class Quiet(TroubledStore):
    """The same store without trouble."""

    def __init__(self, store: TroubledStore) -> None:
        self.blobs = store.blobs

    async def get(self, key: str) -> bytes:
        """Return the content."""
        return (await self.held(key))[1]


class Life:
    """One process: reconcilers called by hand, services at work."""

    def __init__(self, world: World, cache: SharedCache, parts: Parts, dice: random.Random) -> None:
        self._world = world
        self._cache = cache
        self._dice = dice
        self._enqueue, self._reseal, _ = parts.reconcilers
        self._idle = parts.idle

    async def work(self, rounds: int = ROUNDS) -> None:
        """Look at everything, over and over, as time passes, until all is done or it takes too long."""
        calm = 0
        for _ in range(rounds):
            calm += self._world.trouble.over
            marks: list[EventMark | BundleMark] = [
                *self._cache.view(EventMark).items(),
                *self._cache.view(BundleMark).items(),
            ]
            self._dice.shuffle(marks)
            assert isinstance(self._reseal, Reseal)
            # As if many more were under way: what comes is shared.
            self._reseal._busy = 1000 if self._world.shape.burst else 0  # noqa: SLF001 - what decides it
            for mark in marks:
                await self._passing(functools.partial(self._look, mark))
            await self._passing(_turns)
            if not self.left:
                return
            if calm == ENOUGH:
                self._world.wrong.append(f"it does not go on by itself: {self.left}")
                return
            self._world.true.move(self._dice.choice([0.5, 5.0, 61.0, 310.0]))
            await _turns()

    @property
    def left(self) -> list[str]:
        """What is still to be done: events to attest, drafts to let go, books to close."""
        events = self._cache.view(EventMark).items()
        left = [f"{event.metadata.name} waits" for event in events if event.status.phase is not EventPhase.ATTESTED]
        # A process that dies alone with a bundle may leave a draft of it to the next, which seals it with others.
        place = "staging/shared/" if self._world.shape.burst else "staging/"
        left += [f"{key} is staged" for key in self._world.store.blobs if key.startswith(place) and key != SIGNERS]
        if not left and not self._idle():
            left.append("it does not call itself idle")
        return left

    async def _look(self, mark: EventMark | BundleMark) -> None:
        by = self._enqueue if isinstance(mark, EventMark) else self._reseal
        try:
            await by.reconcile(mark)
        except UgalluError:
            return  # the queue would bring it again

    async def _passing(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something while time passes for it, if it sleeps."""
        done = anyio.Event()

        async def run() -> None:
            try:
                await work()
            finally:
                done.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(run)
            seen = -1
            while not done.is_set():
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                busy = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
                if busy:
                    await anyio.sleep(0.0002)  # a thread that writes to the disk
                elif seen == len(self._world.trouble.calls) and not done.is_set():
                    self._world.true.move(self._world.true.next)
                seen = len(self._world.trouble.calls)


async def empty_cluster(true: TrueClock) -> EmbeddedCluster:
    """Return a cluster with nothing in it but where evidence goes."""
    made = memory_cluster(true)
    spec = WORMConfigSpec(endpoint="https://s3.test", bucket="evidence")
    await made.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec))
    return made


async def _turns() -> None:
    """Let everybody else run for a while."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def living(world: World, dice: random.Random) -> AsyncIterator[Life]:
    """A process, from its start to its end or death."""
    trouble = world.trouble
    trouble.dead = False
    settings = Settings(
        state=str(world.folder / "state"),
        secrets=str(world.folder / "secrets"),
        kubernetes=KubernetesSettings(account=str(world.folder / "account")),
        instance="history",
    )
    # A cache keeps up by itself: what it misses is another test's business.
    async with running_cache(world.behind) as cache:
        platform = Platform(
            identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            cluster=world.cluster,
            cache=cache,
            emitter=world.emitter,
            clock=world.clock,
            log=structlog.get_logger(),
            metrics=Metrics(),
            settings=settings,
            namespace=NAMESPACE,
            state=world.folder / "state",
        )
        with (
            mock.patch("ugallu.net.client.HttpClient", world.connect),
            mock.patch("ugallu.runtime.attestor.choose.bucket", return_value=world.store),
        ):
            parts = Attestor().build(world.wanted, platform)
            try:
                await cache.view(EventMark).synced()
                await cache.view(BundleMark).synced()
                async with anyio.create_task_group() as tasks:
                    for service in parts.services:
                        if service.name in ("configuration", "share", "signers"):
                            tasks.start_soon(_kept, service, world)
                    life = Life(world, cache, parts, dice)
                    await _turns()
                    yield life
                    tasks.cancel_scope.cancel()
            finally:
                parts.close()


async def _kept(service: Service, world: World) -> None:
    """Run a service, and start it again when it breaks, as a cell does."""
    while True:
        try:
            await service.run()
        except UgalluError:
            pass
        except BaseExceptionGroup as group:
            if (other := group.split(UgalluError)[1]) is not None:
                raise other from group
        await world.clock.sleep(1.0)
