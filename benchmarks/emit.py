"""Findings to events, end to end: `python -m benchmarks.emit [FINDINGS] [--profile]`.

Real journal and embedded cluster on disk. Three loads: all different (each becomes an event), all equal but for the
time (nearly all fold), and a flood past the object budget. Rates per second of wall time, from the first `submit` to
the end of `drain`; the journal's and the cluster's fsyncs are in it.
"""

import argparse
import cProfile
import datetime as dt
import pstats
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from ugallu.api.catalog import CATALOGUE, Severity
from ugallu.api.event import ClusterIdentity
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.snapshots import ServiceAccountSubject
from ugallu.api.subject import Subject
from ugallu.clock import SystemClock
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.emit.emitter import JournalEmitter
from ugallu.emit.ledger import Totals
from ugallu.emit.outbox import Outbox
from ugallu.emit.port import Origin
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import EmitSettings, LogSettings

BATCH = 64
"""Findings in one submission: what a batch of some thousand observations proves."""
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TYPE = CATALOGUE["CrossTenantSecretAccess"]


def findings(count: int, *, different: bool) -> Iterator[Finding]:
    """Yield findings a tenth of a second apart."""
    for n in range(count):
        name = f"account-{n}" if different else "account"
        yield Finding(
            TYPE,
            Subject(kind="ServiceAccount", namespace="shop", name=name, service_account=ServiceAccountSubject()),
            key=f"read-secrets:{name}",
            severity=Severity.MEDIUM,
            signals={"audit.id": f"{n:032x}", "request.uri": f"/api/v1/namespaces/bank/secrets/s{n}", "user": name},
            detected_at=START + dt.timedelta(seconds=n / 10),
            correlation=f"{n:032x}",
        )


async def play(directory: Path, count: int, *, different: bool, budget: int) -> tuple[float, float, Totals]:
    clock, metrics, log = SystemClock(), Metrics(), logger(LogSettings(level="error"))
    journal = SegmentedJournal(directory / "journal", Retention(), clock=clock, metrics=metrics, log=log)
    cluster = EmbeddedCluster.open(directory / "cluster")
    settings = EmitSettings(objects_per_hour=budget)
    outbox = Outbox(journal, cluster, clock, metrics, log, settings)
    await outbox.recover()
    emits = frozenset({TYPE.name})
    emitter = JournalEmitter(
        Origin("ugallu-bench", emits, cluster=ClusterIdentity(cluster_id="c")), journal, clock, metrics, log
    )
    made = list(findings(count, different=different))
    start, spent = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        for at in range(0, count, BATCH):
            await emitter.submit(made[at : at + BATCH], Checkpoint("log", "bench", next=at + BATCH))
        await outbox.drain()
        tasks.cancel_scope.cancel()
    took, spent = time.perf_counter() - start, time.process_time() - spent
    journal.close()
    await cluster.close()
    return took, spent, outbox.books()


def run(count: int, *, profile: bool) -> None:
    loads = [("all different", True, 10**9), ("all equal", False, 10**9), ("past the budget", True, 100)]
    for name, different, budget in loads:
        with tempfile.TemporaryDirectory() as directory:
            profiler = cProfile.Profile()
            if profile:
                profiler.enable()
            took, spent, books = anyio.run(partial(play, Path(directory), count, different=different, budget=budget))
            profiler.disable()
        rate = f"{count / took:8,.0f} findings/s, {count / spent:8,.0f} per CPU second"
        dropped = sum(books.dropped.values())
        counts = (
            f"emitted {books.emitted:,}, folded {books.folded:,}, dropped {dropped:,}, summaries {books.summaries:,}"
        )
        print(f"{name:16} {rate}; {counts}; books {books.gaps or 'close'}")
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("findings", nargs="?", type=int, default=20_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    run(options.findings, profile=options.profile)


if __name__ == "__main__":
    main()
