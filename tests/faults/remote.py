"""Breaks what the attestor asks at random points: authority, key service, log, timestamps, store, cluster, clock, itself.

Each point is an attestor over services in memory (real keys, real trees, real checks), a few events, and up to three
faults at random calls: refused, late, torn or changed answers, 403, 409, 429, 5xx, outages of seconds to hours, a clock
that is set wrong, a process that is killed. Whatever happens, in the end every event is attested by evidence that
verifies, each statement has one log entry for each who signed it, nothing was called sealed that did not verify at
that moment, and nothing is left staged.

    python tests/faults/remote.py --points 1000 --seed 7
    python tests/faults/remote.py --seed 7 --only 123       # one of them again, with its story
"""

import argparse
import asyncio
import collections
import functools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from unittest import mock

import anyio
import structlog

from ugallu.api.bundle import AttestationBundle, BundlePhase, SigningMode
from ugallu.api.event import ClusterIdentity, EventPhase, SecurityEvent
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
from ugallu.cluster.port import Cluster, list_all
from ugallu.cluster.through import Asked
from ugallu.errors import UgalluError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import trusted_root
from ugallu.evidence.statement import spec_bytes
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
from ugallu.testing.evidence import make_event
from ugallu.testing.openbao import FakeOpenBao
from ugallu.testing.rekor_v2 import FakeRekorV2
from ugallu.testing.sealing import Killed, Recorder
from ugallu.testing.sigstore import WHO, FakeSigstore, chain, token
from ugallu.testing.trouble import (
    OurClock,
    Strike,
    Trouble,
    TroubledCluster,
    TroubledPeer,
    TroubledStore,
    TrueClock,
    drawn,
)

NAMESPACE: Final = "ugallu-system"
LIVES: Final = 8
ROUNDS: Final = 60
ENOUGH: Final = 40
"""Rounds, an hour in all, after which whoever has no trouble any more is done."""
MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Disks are not what is tried here."""


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


MODES: Final = (SigningMode.FULCIO_KEYLESS, SigningMode.OPENBAO_TRANSIT, SigningMode.DUAL)
SHAPES: Final = tuple(
    Shape(mode, generation, stamped, events, burst)
    for mode in MODES
    for generation in (1, 2)
    # A certificate is worth nothing without a signed time, and a log of generation 2 signs none.
    for stamped in ((True, False) if generation == 1 or mode is SigningMode.OPENBAO_TRANSIT else (True,))
    for events, burst in ((1, False), (3, False), (3, True))
)


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
        """What was called sealed and did not verify."""
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

    def connect(self, url: str, **_: Any) -> TroubledPeer:
        """Return a connection to the service at a URL."""
        mine = self.sigstore
        services = {peer.host: peer for peer in (mine.fulcio, mine.rekor, mine.authority, self.rekor2, self.bao)}
        return TroubledPeer(services[url.split("/")[2]], self.trouble)

    async def _told(self, asked: Asked, done: Any) -> None:
        """Verify what is called sealed in the moment in which it is."""
        if asked.kind is not AttestationBundle or asked.verb != "patch_status":
            return
        if done.status.phase is BundlePhase.SEALED:
            try:
                await self.verify(done)
            except UgalluError as error:
                self.wrong.append(f"{done.metadata.name} is called sealed: {error}")

    async def verify(self, bundle: AttestationBundle) -> None:
        """Verify what a bundle names, as a stranger would; raises what is wrong."""
        await confirm_in(Quiet(self.store), lambda b, s: self.trust.check(b, subject=s), bundle)


class Quiet(TroubledStore):
    """The same store without trouble."""

    def __init__(self, store: TroubledStore) -> None:
        self.blobs = store.blobs

    async def get(self, key: str) -> bytes:
        return (await self.held(key))[1]


class Life:
    """One process: reconcilers called by hand, services at work."""

    def __init__(self, world: World, cache: SharedCache, parts: Parts, dice: random.Random) -> None:
        self._world = world
        self._cache = cache
        self._dice = dice
        self._enqueue, self._reseal, _ = parts.reconcilers
        self._idle = parts.idle

    async def work(self) -> None:
        """Look at everything, over and over, as time passes, until all is done or it takes too long."""
        calm = 0
        for _ in range(ROUNDS):
            calm += self._world.trouble.over
            marks: list[Any] = [*self._cache.view(EventMark).items(), *self._cache.view(BundleMark).items()]
            self._dice.shuffle(marks)
            assert isinstance(self._reseal, Reseal)
            # As if many more were under way: what comes is shared.
            self._reseal._busy = 1000 if self._world.shape.burst else 0
            for mark in marks:
                await self._passing(self._look, mark)
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

    async def _passing(self, work: Any, *arguments: Any) -> None:
        """Do something while time passes for it, if it sleeps."""
        done = anyio.Event()

        async def run() -> None:
            try:
                await work(*arguments)
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
            emitter=Recorder(),
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


class Verdict(NamedTuple):
    """One point: what broke, and what is wrong in the end (empty: nothing)."""

    number: int
    shape: Shape
    struck: list[tuple[Strike, str]]
    calls: list[str]
    wrong: list[str]


async def try_point(world: World, number: int, strikes: list[Strike], seed: int) -> Verdict:
    """Live until everything is attested, or hopeless; then judge."""
    shape, dice = world.shape, random.Random(f"{seed}/{number}")
    world.trouble = Trouble(world.clock, strikes, number)
    for at in range(shape.events):
        await world.behind.create(make_event(f"se-{at:024x}"))
    wrong = ["it never came to an end"]
    for life in range(LIVES):
        if life == LIVES - 2:
            world.trouble.end()
        try:
            async with living(world, dice) as process:
                await process.work()
                wrong = process.left
                if not wrong:
                    break
        except Killed:
            pass
        except BaseExceptionGroup as group:
            if (other := group.split(Killed)[1]) is not None:
                raise other from group
        world.true.move(dice.choice([1.0, 20.0, 700.0]))
    struck, calls = list(world.trouble.struck), list(world.trouble.calls)
    world.trouble = Trouble(world.clock)
    wrong += world.wrong + await judge(world)
    return Verdict(number, shape, struck, calls, wrong)


async def judge(world: World) -> list[str]:
    """Say what is wrong with what is left."""
    wrong: list[str] = []
    found, _ = await list_all(world.behind, AttestationBundle)
    events = {event.metadata.name: event for event in (await list_all(world.behind, SecurityEvent))[0]}
    if sorted(bundle.spec.attested_for.name for bundle in found) != sorted(events):
        wrong.append(f"{len(found)} bundles for {len(events)} events")
    vouched: set[bytes] = set()
    for bundle in found:
        name, event = bundle.metadata.name, events[bundle.spec.attested_for.name]
        if bundle.status.phase is not BundlePhase.SEALED:
            last = bundle.status.failures[-1:] or ("nothing failed",)
            wrong.append(f"{name} is {bundle.status.phase}: {last[0]}")
            continue
        try:
            await world.verify(bundle)
        except UgalluError as error:
            wrong.append(f"{name}: {error}")
            continue
        assert bundle.status.subject_ref is not None
        if (await Quiet(world.store).get(world.store.key(bundle.status.subject_ref.url))) != spec_bytes(event):
            wrong.append(f"{name} names other bytes than its event has")
        if event.status.attestation_digest != bundle.status.statement_digest:
            wrong.append(f"{event.metadata.name} remembers another statement than {name} has")
        if len(bundle.status.bundles) != world.shape.legs:
            wrong.append(f"{name} has {len(bundle.status.bundles)} of {world.shape.legs} signatures")
        for leg in bundle.status.bundles:
            content = await Quiet(world.store).get(world.store.key(leg.url))
            vouched |= {entry.body for entry in bundles.read(content).entries}
    statements = {bundle.status.statement_digest for bundle in found}
    if len(world.entries) != len(vouched) or len(vouched) != len(statements) * world.shape.legs:
        wrong.append(f"{len(world.entries)} entries, {len(vouched)} vouch, for {len(statements)} statements")
    twice = [key for key, count in collections.Counter(world.store.puts).items() if count > 1]
    if twice:
        wrong.append(f"written more than once: {twice}")
    return wrong


class Points:
    """Draws points, and tries them; `ready` opens it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed = seed
        self._folder = folder
        self._lengths: dict[Shape, int] = {}
        self._true = TrueClock()
        # One for all: a cluster with its schemas and policies takes longer to make than a point.
        self._behind = memory_cluster(self._true)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Self]:
        """Say where evidence goes."""
        spec = WORMConfigSpec(endpoint="https://s3.test", bucket="evidence")
        await self._behind.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec))
        yield self
        await self._behind.close()

    async def try_one(self, number: int) -> Verdict:
        """Try one point."""
        dice = random.Random(f"plan {self._seed}/{number}")
        shape = dice.choice(SHAPES)
        if shape not in self._lengths:
            calm = await self.try_plan(shape, [])
            assert not calm.wrong, calm.wrong
            self._lengths[shape] = len(calm.calls)
        return await self.try_plan(shape, drawn(dice, int(self._lengths[shape] * 1.1)), number)

    async def try_plan(self, shape: Shape, strikes: list[Strike], number: int = 0) -> Verdict:
        """Try a plan, and leave the cluster empty for the next."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            world = World(shape, Path(folder), self._true, self._behind)
            verdict = await try_point(world, number, strikes, self._seed)
        for kind in (SecurityEvent, AttestationBundle):
            for left in (await list_all(self._behind, kind))[0]:
                await self._behind.delete(kind, left.metadata.name)
        return verdict


async def run(seed: int, numbers: range, *, story: bool) -> int:
    """Try points and print a line for each that ended wrong; return how many did."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, bad, faults = time.perf_counter(), 0, collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="ugallu-points-", dir=MEMORY) as folder:
        async with Points(seed, Path(folder)).ready() as points:
            for number in numbers:
                verdict = await points.try_one(number)
                faults.update(strike.fault for strike, _ in verdict.struck)
                bad += bool(verdict.wrong)
                if verdict.wrong or story:
                    _tell(verdict, story=story)
    seconds = time.perf_counter() - began
    print(f"{len(numbers)} points in {seconds:.0f} s, {faults.total()} faults: {dict(sorted(faults.items()))}")
    print(f"{bad} with a wrong history", flush=True)
    return bad


def _tell(verdict: Verdict, *, story: bool) -> None:
    print(f"{'FAILED' if verdict.wrong else 'good'} {verdict.number} {_words(verdict.shape)}")
    for strike, call in verdict.struck:
        print(f"    {strike.fault} at {strike.at}: {call}{f' ({strike.seconds:g} s)' if strike.seconds else ''}")
    for line in list(dict.fromkeys(verdict.wrong))[:6]:
        print(f"    ! {line}")
    if story:
        print(*(f"    {at} {call}" for at, call in enumerate(verdict.calls, 1)), sep="\n")


def _words(shape: Shape) -> str:
    stamped = ", stamped" if shape.stamped else ""
    together = " together" if shape.burst else ""
    return f"{shape.mode.value}, Rekor v{shape.generation}{stamped}, {shape.events} events{together}"


def main() -> int:
    """Try the points that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", type=int, help="this point alone, with every call")
    args = parser.parse_args()
    numbers = range(args.points) if args.only is None else range(args.only, args.only + 1)
    return 1 if asyncio.run(run(args.seed, numbers, story=args.only is not None)) else 0


if __name__ == "__main__":
    sys.exit(main())
