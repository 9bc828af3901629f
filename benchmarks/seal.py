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
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.kit import BUNDLE_SUFFIX, KEY_FILE, ROOT_FILE, SPEC_SUFFIX
from ugallu.evidence.verify import verify
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
        check(Path(folder) / "burst" / "evidence")


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
        namespace="ugallu-system",
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
        tg.cancel_scope.cancel()
    # Closing syncs what is owed: sustained means that it counts.
    parts.close()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await cluster.close()
    took.sort()
    print(
        f"{'at ' + format(rate, '.0f') + '/s' if rate else 'at once':>9}: {count / wall:6.0f} seals/s, "
        f"{count / cpu:6.0f} per CPU second, p50 {statistics.median(took) * 1e3:6.1f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1e3:6.1f} ms"
    )


def check(evidence: Path) -> None:
    """Verify every bundle in the store with its subject, as a stranger would."""
    key = keys.from_pem((evidence / KEY_FILE).read_bytes())
    root = trusted_root.read((evidence / ROOT_FILE).read_bytes())
    paths = sorted((evidence / "store" / "objects").rglob(f"*{BUNDLE_SUFFIX}"))
    kits = [(path.read_bytes(), Path(str(path).replace(BUNDLE_SUFFIX, SPEC_SUFFIX)).read_bytes()) for path in paths]
    cpu = time.process_time()
    good = sum(verify(bundle, key=key, root=root, subject=subject).ok for bundle, subject in kits)
    print(f"{'verifier':>9}: {good} of {len(kits)} hold, {len(kits) / (time.process_time() - cpu):6.0f} per CPU second")


def _settings(folder: Path) -> Settings:
    return load({"state": str(folder), "instance": "bench"}, {})


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
