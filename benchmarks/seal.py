"""Seals per second, and how long one takes, with the embedded ports on a real disk: `python benchmarks/seal.py [N]`.

The bars: 200 seals a second sustained on one core, half of them within 100 ms of the event's creation; 1,000 a second
in shared statements; a backlog drained in memory that does not grow with it. Events come at the first bar's rate, then
all at once and sealed one by one, then all at once as it is by default, then they were there before. CPU seconds tell
what one core could do; the last figure is by how much memory grew, the caches of events and bundles included.
"""

import datetime as dt
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio
import structlog

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import ClusterIdentity, SecurityEvent
from ugallu.api.marks import EventMark
from ugallu.clock import SystemClock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import Change, list_all
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.statement import Statement, concerns
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.verify import verify
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.parent import is_attested
from ugallu.runtime.attestor.reseal import Reseal
from ugallu.settings import Settings, load
from ugallu.supervisor.reconciling import Reconciling
from ugallu.testing.evidence import make_event

RATE = 200.0


async def main(count: int) -> None:
    """Measure all ways and print one line each."""
    with tempfile.TemporaryDirectory(dir=Path.cwd() if len(sys.argv) > 2 else None) as folder:
        await measure(Path(folder) / "paced", count, RATE)
        await measure(Path(folder) / "alone", count, 0.0, shared=False)
        await measure(Path(folder) / "shared", count, 0.0)
        await measure(Path(folder) / "backlog", 5 * count, 0.0, before=True)


async def measure(folder: Path, count: int, rate: float, *, shared: bool = True, before: bool = False) -> None:
    """Seal `count` events that come `rate` a second (0: at once), or were there `before` the attestor was."""
    folder.mkdir()  # noqa: ASYNC240 - before anything is measured
    clock, metrics = SystemClock(), Metrics()
    cluster = EmbeddedCluster.open(folder)
    cache = SharedCache(cluster)
    platform = Platform(
        identity=ClusterIdentity(cluster_name="bench", cluster_id="bench"),
        cluster=cluster,
        cache=cache,
        emitter=None,  # type: ignore[arg-type]  # the attestor emits nothing
        clock=clock,
        log=structlog.get_logger(),
        metrics=metrics,
        settings=_settings(folder),
        namespace="ugallu-system",
        state=folder,
    )
    parts = Attestor().build(Attestor.config(), platform)
    if not shared:
        reseal = parts.reconcilers[1]
        assert isinstance(reseal, Reseal)
        reseal.share = None
    born: dict[str, float] = {}
    took: list[float] = []
    over = anyio.Event()

    def told(_: Change, event: EventMark) -> None:
        begun = born.get(event.metadata.name)
        if begun is not None and is_attested(event):
            took.append(time.perf_counter() - begun)
            del born[event.metadata.name]
            if len(took) == count:
                over.set()

    cache.view(EventMark).listen(told)

    def born_now(number: int) -> SecurityEvent:
        event = make_event(f"se-{number:024x}", detected_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        born[event.metadata.name] = time.perf_counter()
        return event

    if before:
        for first in range(0, count, 1000):
            async with anyio.create_task_group() as feed:
                for number in range(first, min(first + 1000, count)):
                    feed.start_soon(cluster.create, born_now(number))
        born = dict.fromkeys(born, time.perf_counter())
    peak = resident()
    async with anyio.create_task_group() as tg:
        wall, cpu = time.perf_counter(), time.process_time()
        tg.start_soon(cache.run)
        at_work = [
            Reconciling(
                reconciler,
                cache.view(reconciler.watches),
                operator="attestor",
                clock=clock,
                metrics=metrics,
                log=platform.log,
                changed=lambda: None,
            )
            for reconciler in parts.reconcilers
        ]
        for service in parts.services:
            tg.start_soon(service.run)
        for each in at_work:
            tg.start_soon(each.run)
            await each.armed.wait()
        if not before:
            wall, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as feed:
                for number in range(count):
                    if rate:
                        await anyio.sleep(max(0.0, wall + number / rate - time.perf_counter()))
                    feed.start_soon(cluster.create, born_now(number))
        await over.wait()
        peak = resident() - peak
        tg.cancel_scope.cancel()
    # Closing syncs what is owed: sustained means that it counts.
    parts.close()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    together = metrics.value("ugallu_attestor_shared_events_total")
    await check(folder / "evidence", cluster)
    await cluster.close()
    took.sort()
    print(
        f"{folder.name:>8}: {count / wall:6.0f} seals/s, {count / cpu:6.0f} per CPU second, "
        f"p50 {statistics.median(took) * 1e3:6.1f} ms, p99 {took[int(len(took) * 0.99)] * 1e3:6.1f} ms, "
        f"{together:.0f} of {count} in shared statements, {log_size(folder)} log entries, {peak >> 10:+} MiB",
        flush=True,
    )


async def check(evidence: Path, cluster: EmbeddedCluster) -> None:
    """Verify every event's evidence as a stranger would: its own bytes, and the bundle that it may share."""
    key = keys.from_pem((evidence / KEY_FILE).read_bytes())
    root = trusted_root.read((evidence / ROOT_FILE).read_bytes())
    store = DirectoryStore(evidence / "store", SystemClock())
    seen: dict[str, Statement] = {}
    bundles, _ = await list_all(cluster, AttestationBundle)
    for bundle in bundles:
        status = bundle.status
        assert status.worm_ref is not None
        assert status.subject_ref is not None
        subject = await store.get(store.key(status.subject_ref.url))
        if status.worm_ref.url not in seen:
            content = await store.get(store.key(status.worm_ref.url))
            report = verify(content, key=key, root=root, subject=subject)
            assert report.ok, report.reason
            assert report.statement is not None
            seen[status.worm_ref.url] = report.statement
        assert concerns(seen[status.worm_ref.url], bundle.spec.attested_for.uid, subject)


def log_size(folder: Path) -> int:
    return int((folder / "evidence" / "log" / "checkpoint").read_text().split("\n")[1])


def resident() -> int:
    """Return the memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _settings(folder: Path) -> Settings:
    return load({"state": str(folder), "instance": "bench"}, {})


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
