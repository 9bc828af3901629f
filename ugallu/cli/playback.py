"""Runs the product over recorded logs, to the end: what `replay` and `demo` share."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.sigma import SigmaRule
from ugallu.cli.progress import Meter, Progress
from ugallu.cluster.port import Cluster, list_all
from ugallu.emit import records
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Operator
from ugallu.settings import ListenSettings, Settings
from ugallu.supervisor import supervisor
from ugallu.supervisor.assembly import Process, open_embedded
from ugallu.supervisor.signals import stopping
from ugallu.supervisor.supervisor import Outcome

if TYPE_CHECKING:
    from ugallu.api.meta import Resource

LABEL_LOADED: Final = "ugallu.io/loaded-by"
LOADED_BY: Final = "command-line"
LABEL_PACK: Final = "ugallu.io/rule-pack"
PACK: Final = Path("pack")
"""Names the default rules where files of rules are asked for."""
LAG: Final = b"ugallu_audit_source_lag_bytes{"
TELL_SECONDS: Final = 0.1


def recorded(settings: Settings, files: Sequence[str], state: Path) -> Settings:
    """Return the settings of a replay: read to the end, no probes, and nothing in it that differs between machines."""
    audit = msgspec.structs.replace(settings.audit, files=tuple(files), follow=False, from_start=True)
    return msgspec.structs.replace(
        settings, state=str(state), instance="", audit=audit, listen=ListenSettings(health="", metrics="")
    )


async def play(
    settings: Settings,
    rules: Sequence[Path],
    *,
    meter: Meter,
    told: Callable[[records.Submitted], None] | None = None,
    then: Callable[[Process, Outcome], Awaitable[None]] | None = None,
) -> Outcome:
    """Run until everything that the input caused is done, and return the books.

    `told` gets every finding that passed the emitter's checks, in the order of the journal, folded ones included;
    `then` runs before the state is closed.
    """
    async with open_embedded(settings) as process:
        await load_rules(process.cluster, process.operators, rules)
        drawn = Drawing(meter, settings.audit.files, process.metrics, process.clock.monotonic)
        done = anyio.Event()
        readers: list[str] = []
        with stopping() as stop:
            async with anyio.create_task_group() as group:
                if told is not None:
                    group.start_soon(_tell, process, process.journal.last, told, done)
                group.start_soon(_ask_who_reads, process, readers)
                try:
                    books = await process.supervisor.run(stop, until_idle=True, on_progress=drawn)
                finally:
                    meter.clear()
                done.set()
            if stop.is_set():
                raise KeyboardInterrupt
            if not readers:
                raise PermanentError(
                    "no enabled operator reads audit logs", where="--enable", fix="add audit-detection, or leave it out"
                )
        if then is not None:
            await then(process, books)
    return books


async def load_rules(cluster: Cluster, operators: Sequence[Operator[Any]], paths: Sequence[Path]) -> int:
    """Apply what these files declare, and take away what an earlier command line declared and this one does not.

    Without paths nothing changes. Returns how many objects there are. Raises `PermanentError` with file, line and fix.
    """
    if not paths:
        return 0
    readers = [operator for operator in operators if type(operator).resources is not Operator.resources]
    wanted: list[Resource] = [resource for operator in readers for resource in operator.resources(paths)]
    for resource in wanted:
        labels = {**resource.metadata.labels, LABEL_LOADED: LOADED_BY}
        await cluster.apply(resource.with_metadata(labels=labels), manager="ugallu-cli")
    kept = {resource.metadata.name for resource in wanted}
    earlier, _ = await list_all(cluster, SigmaRule, labels=f"{LABEL_LOADED}={LOADED_BY}")
    for rule in earlier:
        if rule.metadata.name not in kept:
            await cluster.delete(SigmaRule, rule.metadata.name)
    return len(wanted)


async def default_rules(cluster: Cluster) -> list[Path]:
    """Return what to load where nothing is named: the pack, or nothing where the state holds rules of somebody's own.

    The pack again where the state holds it, so that a new release brings its rules.
    """
    found, _ = await list_all(cluster, SigmaRule)
    return [PACK] if all(rule.metadata.labels.get(LABEL_PACK) for rule in found) else []


async def _ask_who_reads(process: Process, readers: list[str]) -> None:
    await process.supervisor.ready.wait()
    readers += process.supervisor.subscribers(AuditRecord)


async def _tell(process: Process, after: int, told: Callable[[records.Submitted], None], done: anyio.Event) -> None:
    """Pass on every finding as it becomes durable.

    No reader of its own: one left behind in a state directory would hold back what a later process may retire.
    """
    while True:
        last = done.is_set()
        async for record in process.journal.records(after):
            after = record.seq
            entry = records.decode(record.data, record.seq)
            if isinstance(entry, records.Submitted):
                told(entry)
        if last:
            return
        with anyio.move_on_after(TELL_SECONDS):
            await done.wait()


class Drawing:
    """Draws the supervisor's progress: first the input by its bytes, then the events that are still being sealed."""

    def __init__(self, meter: Meter, files: Sequence[str], metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._meter = meter
        self._metrics = metrics
        self._monotonic = monotonic
        self._begin = monotonic()
        self._sealing_since = 0.0
        sizes = [_size(name) for name in files]
        self._total = sum(sizes) if all(sizes) else 0

    def __call__(self, now: supervisor.Progress) -> None:
        """Draw one state."""
        if not self._meter.live:
            return
        elapsed = self._monotonic() - self._begin
        note = f"{now.findings:,} found"
        behind = self._behind()
        if behind > 0 or not now.lines or not now.sealed:
            done = max(self._total - behind, 0) if now.lines else 0
            self._meter.show(Progress("reading", done, self._total, elapsed, now.lines, "lines", note))
            return
        self._sealing_since = self._sealing_since or elapsed
        since = elapsed - self._sealing_since
        note = f"{now.sealed:,} of {now.events:,} sealed"
        self._meter.show(Progress("sealing", now.sealed, now.events, since, now.sealed, "events", note))

    def _behind(self) -> int:
        """Return the bytes not yet read: the sources say so in one metric each."""
        lags = [line.rpartition(b" ")[2] for line in self._metrics.render().splitlines() if line.startswith(LAG)]
        return int(sum(float(lag) for lag in lags))


def _size(name: str) -> int:
    try:
        return Path(name).stat().st_size
    except OSError:
        return 0
