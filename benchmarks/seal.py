"""Seals per second, and how long one takes, over real disks: `python -m benchmarks.seal [N] [--backlog N] [--s3 KIND]`.

The bars: 200 seals a second sustained on one core, half of them within 100 ms of the event's creation; 1,000 a second
in shared statements; a backlog drained in memory that does not grow with it. Four ways for events to come:

    paced    at the first bar's rate
    alone    as fast as they are sealed, some dozens under way, each in a statement of its own
    shared   as fast as they are sealed, thousands under way, as it is by default
    backlog  all of them are there before the attestor is; resident memory is read at each quarter

The store is the embedded directory, and with `--s3` also a bucket with object lock on a server that tests/rig starts
here. Each way runs in a process of its own, so that no memory of one is taken for that of another. Seconds are those of
the clock until the last byte is on the disk; a CPU second is one of this process, all threads of it: making the events
is in it, the S3 server is not. Afterwards every event's evidence is verified as a stranger would.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime as dt
import hashlib
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import ClusterIdentity
from ugallu.api.marks import EventMark
from ugallu.api.platform import EncryptionConfig, EncryptionMode, WORMConfigSpec
from ugallu.clock import SystemClock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import Change, list_all
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.ports import EvidenceStore
from ugallu.evidence.statement import Statement
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.parts import split
from ugallu.evidence.stores.s3 import open_store
from ugallu.evidence.stores.s3_client import Endpoint, Keys, S3Client
from ugallu.evidence.verify import verify
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.enqueue import Enqueue
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.parent import is_attested
from ugallu.runtime.attestor.reseal import Reseal
from ugallu.settings import Secret, load
from ugallu.supervisor.reconciling import Reconciling
from ugallu.testing.evidence import make_event

RATE = 200.0
WARM = 50
"""Events sealed before anything is measured: engines are imported, policies compiled, files opened."""


Make = Callable[[], Coroutine[Any, Any, None]]
"""Makes one event."""


@dataclasses.dataclass(frozen=True)
class Way:
    """How so many events come: `rate` a second, or as fast as they go with so many `under_way`, or before all else."""

    name: str
    count: int
    rate: float = 0.0
    under_way: int = 0
    shared: bool = True

    @property
    def before(self) -> bool:
        """They are there before the attestor is."""
        return not self.rate and not self.under_way


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket on a server of this machine."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str

    async def credentials(self) -> Keys:
        """Return what opens it."""
        return Keys(Secret(self.access_key), Secret(self.secret_key))


def main() -> None:
    """Measure each way and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("count", nargs="?", type=int, default=2000, help="events of each way but the last")
    parser.add_argument("--backlog", type=int, help="events of the backlog; by default five times as many")
    parser.add_argument("--only", nargs="*", help="these ways alone")
    parser.add_argument("--s3", choices=["versitygw", "minio"], help="seal into a bucket as well")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    args = parser.parse_args()
    ways = [
        Way("paced", args.count, rate=RATE),
        Way("alone", args.count, under_way=64, shared=False),
        Way("shared", args.count, under_way=4096),
        Way("backlog", 5 * args.count if args.backlog is None else args.backlog),
    ]
    ways = [way for way in ways if way.count and way.name in (args.only or [way.name])]
    for way in ways:
        _apart(way, None, args.folder)
    if args.s3:
        from tests.rig.s3 import ACCESS_KEY, KINDS, SECRET_KEY, S3Server

        with S3Server(KINDS[args.s3]) as server:
            for way in ways:
                bucket = Bucket(server.endpoint, server.name(), ACCESS_KEY, SECRET_KEY)
                anyio.run(_make_bucket, bucket)
                _apart(way, bucket, args.folder)


async def _make_bucket(bucket: Bucket) -> None:
    client = S3Client(Endpoint(url=bucket.endpoint), bucket.credentials, SystemClock())
    try:
        # Makes buckets nowhere else: the product is given one.
        await client._call("create_bucket", "", Bucket=bucket.name, ObjectLockEnabledForBucket=True)  # noqa: SLF001
    finally:
        await client.aclose()


def _apart(way: Way, bucket: Bucket | None, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        # A fork has imported everything already: that is not what is measured.
        child = multiprocessing.get_context("fork").Process(target=anyio.run, args=(measure, way, Path(made), bucket))
        child.start()
        child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)


class Watch:
    """When events were made, and how long each took to be attested."""

    def __init__(self, most: int) -> None:
        """At `most` so many are under way at the same time."""
        self.took: list[float] = []
        self.memory: list[int] = []
        """Resident MiB at the beginning, and whenever another `every` were attested."""
        self._made: dict[str, float] = {}
        self._room = anyio.Semaphore(most, fast_acquire=True)
        self._gone = anyio.Event()
        self._every = 0
        self._began = self._cpu = self._ended = 0.0

    async def made(self, name: str) -> None:
        """Begin to count the time of an event, once there is room for it."""
        await self._room.acquire()
        self._made[name] = time.perf_counter()

    def told(self, _: Change, event: EventMark) -> None:
        """Take note of an event that is attested."""
        if not is_attested(event) or (made := self._made.pop(event.metadata.name, None)) is None:
            return
        self.took.append(time.perf_counter() - made)
        self._room.release()
        if self._every and len(self.took) % self._every == 0:
            self.memory.append(resident())
        gone, self._gone = self._gone, anyio.Event()
        gone.set()

    async def all_attested(self) -> None:
        """Wait until nothing is under way."""
        while self._made:
            await self._gone.wait()

    def begin(self, *, every: int = 0) -> None:
        """Measure from here."""
        self.took.clear()
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self._made = dict.fromkeys(self._made, self._began)
        if every:
            self._every, self.memory = every, [resident()]

    def attested(self) -> None:
        """Everything is attested, though not all of it in its own file."""
        self._ended = time.perf_counter()

    def figures(self) -> str:
        """Return what was measured until now."""
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        count, took = len(self.took), sorted(self.took)
        text = (
            f"{count / wall:6.0f} seals/s ({self._ended - self._began:.1f} s, {wall:.1f} s when closed), "
            f"{count / cpu:6.0f} per CPU second, p50 {statistics.median(took) * 1e3:6.1f} ms, "
            f"p99 {took[int(count * 0.99)] * 1e3:6.1f} ms"
        )
        return f"{text}, memory {' '.join(map(str, self.memory))} MiB" if self.memory else text


async def measure(way: Way, folder: Path, bucket: Bucket | None) -> None:
    """Seal events that come this way, say how long it took, and verify what came of it."""
    cluster, metrics, watch = EmbeddedCluster.open(folder), Metrics(), Watch(way.under_way or way.count + WARM)
    numbers = itertools.count()

    async def make() -> None:
        event = make_event(f"se-{next(numbers):024x}", detected_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        await watch.made(event.metadata.name)
        await cluster.create(event)

    async with _opened(bucket) as store, anyio.create_task_group() as tg:
        work = Work(cluster, metrics, folder, store, shared=way.shared)
        work.cache.view(EventMark).listen(watch.told)
        if way.before:
            await _several(make, way.count)
            watch.begin(every=way.count // 4)
        await work.start(tg)
        if not way.before:
            await _several(make, WARM)
            await watch.all_attested()
            watch.begin()
            await (_paced(make, way.count, way.rate) if way.rate else _several(make, way.count))
        await watch.all_attested()
        watch.attested()
        tg.cancel_scope.cancel()
    work.close()
    together = int(metrics.value("ugallu_attestor_shared_events_total"))
    print(
        f"{'bucket' if bucket else 'directory':>9} {way.name:>7}: {watch.figures()}, "
        f"{together} events in shared statements, {log_size(folder)} log entries",
        flush=True,
    )
    async with _opened(bucket) as store:
        await check(folder / "evidence", cluster, store)
    await cluster.close()


async def _several(make: Make, count: int) -> None:
    """Make so many, some at the same time."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await make()

    async with anyio.create_task_group() as tg:
        for _ in range(64):
            tg.start_soon(worker)


async def _paced(make: Make, count: int, rate: float) -> None:
    began = time.perf_counter()
    async with anyio.create_task_group() as tg:
        for number in range(count):
            await anyio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tg.start_soon(make)


class Work:
    """The attestor at work over a cluster."""

    def __init__(
        self, cluster: EmbeddedCluster, metrics: Metrics, folder: Path, store: EvidenceStore | None, *, shared: bool
    ) -> None:
        """`store` takes the place of the directory, if there is one."""
        self.cache = SharedCache(cluster)
        self._metrics = metrics
        self._platform = Platform(
            identity=ClusterIdentity(cluster_name="bench", cluster_id="bench"),
            cluster=cluster,
            cache=self.cache,
            emitter=None,  # type: ignore[arg-type]  # nothing fails, so the attestor emits nothing
            clock=SystemClock(),
            log=structlog.get_logger(),
            metrics=metrics,
            settings=load({"state": str(folder), "instance": "bench"}, {}),
            namespace="ugallu-system",
            state=folder,
        )
        self._parts = Attestor().build(Attestor.config(), self._platform)
        enqueue, reseal, *_ = self._parts.reconcilers
        assert isinstance(enqueue, Enqueue)
        assert isinstance(reseal, Reseal)
        if not shared:
            reseal.share = None
        if store is not None:
            # What `WORMConfig` does where everything is configured; here key and log stay on the disk.
            reseal.stages.store = store
            reseal.stages.ports = enqueue._ports = dataclasses.replace(reseal.stages.ports, store=store)  # noqa: SLF001

    async def start(self, tg: TaskGroup) -> None:
        """Run cache, reconcilers and services, and wait until every object there is was looked at."""
        tg.start_soon(self.cache.run)
        at_work = [
            Reconciling(
                reconciler,
                self.cache.view(reconciler.watches),
                operator="attestor",
                clock=self._platform.clock,
                metrics=self._metrics,
                log=self._platform.log,
                changed=lambda: None,
            )
            for reconciler in self._parts.reconcilers
        ]
        for each in at_work:
            tg.start_soon(each.run)
        for service in self._parts.services:
            tg.start_soon(service.run)
        for each in at_work:
            await each.armed.wait()

    def close(self) -> None:
        """Bring everything to the disk that is owed to it."""
        self._parts.close()


@contextlib.asynccontextmanager
async def _opened(bucket: Bucket | None) -> AsyncIterator[EvidenceStore | None]:
    if bucket is None:
        yield None
        return
    spec = WORMConfigSpec(
        endpoint=bucket.endpoint, bucket=bucket.name, encryption=EncryptionConfig(mode=EncryptionMode.NONE)
    )
    store = open_store(spec, bucket.credentials, SystemClock())
    try:
        yield store
    finally:
        await store.aclose()


async def check(evidence: Path, cluster: EmbeddedCluster, store: EvidenceStore | None) -> None:
    """Verify every event's evidence as a stranger would: its own bytes, and the bundle that it may share."""
    key = keys.from_pem((evidence / KEY_FILE).read_bytes())
    root = trusted_root.read((evidence / ROOT_FILE).read_bytes())
    held = store or DirectoryStore(evidence / "store", SystemClock())
    bundles, _ = await list_all(cluster, AttestationBundle)
    sharing: dict[str, list[AttestationBundle]] = collections.defaultdict(list)
    for bundle in bundles:
        assert bundle.status.worm_ref is not None
        sharing[bundle.status.worm_ref.url].append(bundle)
    for url, members in sharing.items():
        content = await held.get(held.key(url))
        subjects = [bundle.status.subject_ref for bundle in members]
        places = [split(held.key(subject.url)) for subject in subjects if subject is not None]
        stored, whole = await held.read(places[0][0])
        parts = [whole if part is None else part.of(stored, whole)[1] for _, part in places]
        report = verify(content, key=key, root=root, subject=parts[0])
        assert report.ok, report.reason
        assert report.statement is not None
        proven = dict(_digests(report.statement))
        for bundle, part in zip(members, parts, strict=True):
            assert proven[bundle.spec.attested_for.uid] == hashlib.sha256(part).hexdigest()


def _digests(statement: Statement) -> Iterator[tuple[str, str]]:
    """Yield the uid of each event that a statement is about, and the digest of its bytes."""
    predicate = statement.predicate
    for said, subject in zip(predicate.get("incidents", [predicate.get("incident")]), statement.subject, strict=True):
        yield said["securityEventUID"], subject.digest["sha256"]


def log_size(folder: Path) -> int:
    return int((folder / "evidence" / "log" / "checkpoint").read_text().split("\n")[1])


def resident() -> int:
    """Return the memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) >> 10


if __name__ == "__main__":
    main()
