"""Seals per second, and how long one takes, with the embedded ports on a real disk: `python benchmarks/seal.py [N]`.

The bar: 200 seals a second sustained on one core, half of them within 100 ms of the event's creation. Events come at
the bar's own rate first (latency), then all at once (throughput). CPU seconds tell what one core could do.
"""

import datetime as dt
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio
import structlog

from ugallu.api.event import ClusterIdentity, SecurityEvent
from ugallu.api.meta import Config
from ugallu.clock import SystemClock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import Change
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.parent import is_attested
from ugallu.settings import Settings, load
from ugallu.supervisor.reconciling import Reconciling
from ugallu.testing.evidence import make_event

RATE = 200.0


async def main(count: int) -> None:
    """Measure both ways and print one line each."""
    with tempfile.TemporaryDirectory(dir=Path.cwd() if len(sys.argv) > 2 else None) as folder:
        await measure(Path(folder) / "paced", count, RATE)
        await measure(Path(folder) / "burst", count, 0.0)


async def measure(folder: Path, count: int, rate: float) -> None:
    """Seal `count` events that come `rate` a second (0: at once)."""
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
        state=folder,
    )
    parts = Attestor().build(Config(), platform)
    born: dict[str, float] = {}
    took: list[float] = []
    over = anyio.Event()

    def told(_: Change, event: SecurityEvent) -> None:
        begun = born.get(event.metadata.name)
        if begun is not None and is_attested(event):
            took.append(time.perf_counter() - begun)
            del born[event.metadata.name]
            if len(took) == count:
                over.set()

    cache.view(SecurityEvent).listen(told)
    async with anyio.create_task_group() as tg:
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
        for each in at_work:
            tg.start_soon(each.run)
            await each.armed.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as feed:
            for number in range(count):
                event = make_event(f"se-{number:024x}", detected_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
                if rate:
                    await anyio.sleep(max(0.0, wall + number / rate - time.perf_counter()))
                born[event.metadata.name] = time.perf_counter()
                feed.start_soon(cluster.create, event)
        await over.wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tg.cancel_scope.cancel()
    parts.close()
    await cluster.close()
    took.sort()
    print(
        f"{'at ' + format(rate, '.0f') + '/s' if rate else 'at once':>9}: {count / wall:6.0f} seals/s, "
        f"{count / cpu:6.0f} per CPU second, p50 {statistics.median(took) * 1e3:6.1f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1e3:6.1f} ms"
    )


def _settings(folder: Path) -> Settings:

    return load({"state": str(folder), "instance": "bench"}, {})


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
