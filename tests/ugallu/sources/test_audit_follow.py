"""A live log under every kind of rotation, step by step: each line exactly once, whatever happens between two looks."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Literal

import anyio
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings, LogSettings
from ugallu.sources.audit_file import GRACE_SECONDS, TICK_SECONDS, AuditFile
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.sourcing import Heard, sourcing


class Log:
    """A log file as an API server and a rotation tool treat it, and the source that follows it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.log"
        self.clock = ManualClock()
        self.heard = Heard()
        self.metrics = Metrics()
        self.written: list[int] = []
        self.rotations = 0

    def source(self, *, from_start: bool = False, max_line_bytes: int = 1 << 20) -> AuditFile:
        """Return the source of a new process."""
        wanted = AuditSettings(files=(str(self.path),), from_start=from_start, max_line_bytes=max_line_bytes)
        return AuditFile(wanted, self.clock, self.metrics, logger(LogSettings(level="critical")))

    def line(self) -> bytes:
        """Return the next line; it counts as written."""
        number = len(self.written)
        self.written.append(number)
        body = {
            "auditID": f"id-{number}",
            "verb": "get",
            "stage": "ResponseComplete",
            "requestURI": "/" * (number % 90),
        }
        return json.dumps(body).encode() + b"\n"

    def write(self, count: int = 1, path: Path | None = None) -> None:
        """Append lines, as whole writes."""
        with (path or self.path).open("ab") as file:
            for _ in range(count):
                file.write(self.line())

    def rotate(self, packed: str = "") -> Path:
        """Rename as lumberjack does; `packed` compresses at once."""
        self.rotations += 1
        target = self.path.with_name(f"audit-2026-11-25T01-02-{self.rotations:02}.000.log")
        self.path.rename(target)
        return self.pack(target, packed) if packed else target

    def pack(self, path: Path, packed: str) -> Path:
        """Replace a file by its compressed form."""
        data = path.read_bytes()
        target = path.with_name(f"{path.name}.{packed}")
        target.write_bytes(gzip.compress(data) if packed == "gz" else zstandard.compress(data))
        path.unlink()
        return target

    def copytruncate(self) -> Path:
        """Copy and cut, as logrotate does for writers that cannot reopen."""
        self.rotations += 1
        target = self.path.with_name(f"audit.log-{20261100 + self.rotations}")
        shutil.copyfile(self.path, target)
        os.truncate(self.path, 0)
        return target

    def number(self) -> None:
        """Shift `.1` to `.2` and so on, and the log to `.1`."""
        for index in range(20, 0, -1):
            old = self.path.with_name(f"audit.log.{index}")
            if old.exists():
                old.rename(self.path.with_name(f"audit.log.{index + 1}"))
        self.path.rename(self.path.with_name("audit.log.1"))

    async def look(self) -> None:
        """Let the source notice: a tick, the grace, and what follows."""
        for _ in range(4):
            await self.clock.advance(max(TICK_SECONDS, GRACE_SECONDS))

    @property
    def ids(self) -> list[int]:
        """What was heard, in order."""
        return [int(record.audit_id.removeprefix("id-")) for record in self.heard.observations]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def test_starts_at_the_end(log: Log) -> None:
    """Without a checkpoint only what comes after the start is heard, also the line that is just being written."""
    log.write(3)
    next_line = log.line()
    with log.path.open("ab") as file:
        file.write(next_line[:10])
    async with sourcing(log.source(), log.heard):
        assert log.heard.batches[0].resume
        assert log.ids == []
        with log.path.open("ab") as file:
            file.write(next_line[10:])
        log.write(2)
        await log.look()
    assert log.ids == [3, 4, 5]


async def test_the_beginning_survives_a_crash(log: Log) -> None:
    """A process that dies before its first event has fixed where the log begins for the next one."""
    log.write(3)
    async with sourcing(log.source(), log.heard):
        pass
    log.write(2)
    async with sourcing(log.source(), log.heard):
        await log.look()
    assert log.ids == [3, 4]


async def test_from_start(log: Log) -> None:
    """On demand everything that is left is heard, oldest first, plain and compressed."""
    for packed in ("gz", "", "zst", ""):
        log.write(5)
        log.rotate(packed)
    log.write(3)
    (log.path.parent / "audit-unrelated.log").write_bytes(b"noise\n")
    (log.path.parent / "other-2026-11-25T01-02-01.000.log").write_bytes(b"noise\n")
    async with sourcing(log.source(from_start=True), log.heard):
        await log.look()
    assert log.ids == log.written


async def test_waits_for_the_log(log: Log) -> None:
    """A log that does not exist yet is waited for, which shows, and then read from its first line."""
    source = log.source()
    async with sourcing(source, log.heard):
        assert "audit.log" in source.waiting
        log.write(2)
        await log.look()
        assert not source.waiting
    assert log.ids == [0, 1]


async def test_unterminated_tail(log: Log) -> None:
    """A line counts when its newline has come, however slowly it is written."""
    log.write(1)
    async with sourcing(log.source(from_start=True), log.heard):
        for byte in log.line():
            assert log.ids == [0]
            with log.path.open("ab") as file:
                file.write(bytes([byte]))
            await log.clock.advance(TICK_SECONDS)
    assert log.ids == [0, 1]
    assert log.heard.counts["rejected"] == 0


@pytest.mark.parametrize("packed", ["", "gz", "zst"])
@pytest.mark.parametrize("unread", [0, 3])
async def test_rotation(log: Log, packed: str, unread: int) -> None:
    """A rename, at once followed by compression, loses nothing, with or without unread lines."""
    log.write(4)
    async with sourcing(log.source(from_start=True), log.heard):
        for _ in range(3):
            log.write(unread)
            log.rotate(packed)
            log.write(2)
            await log.look()
    assert log.ids == log.written


async def test_late_lines_of_the_old_writer(log: Log) -> None:
    """What is written to the old file after its rename, within the grace, is heard before the new file."""
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        old = log.path.open("ab")
        log.rotate()
        log.path.touch()
        await log.clock.advance(TICK_SECONDS)
        old.write(log.line())
        old.flush()
        log.write(2)
        await log.clock.advance(GRACE_SECONDS)
        old.close()
        await log.look()
    assert log.ids == log.written


async def test_no_log_between_rename_and_create(log: Log) -> None:
    """While the name is missing the old file is still read."""
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        old = log.rotate()
        await log.look()
        log.write(2, old)
        await log.look()
        assert log.ids == log.written
        log.write(2)
        await log.look()
    assert log.ids == log.written


async def test_several_rotations_between_two_looks(log: Log) -> None:
    """Whole files that came and went between two looks are heard in order."""
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        for packed in ("", "gz", "", "zst", ""):
            log.write(3)
            log.rotate(packed)
            log.write(1)
        await log.look()
    assert log.ids == log.written


async def test_rotations_while_down(log: Log) -> None:
    """A new process finds its place in a file that was renamed, compressed and followed by others meanwhile."""
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        await log.look()
    log.write(3)
    log.rotate("gz")
    log.write(3)
    log.rotate()
    log.write(3)
    async with sourcing(log.source(), log.heard):
        await log.look()
    assert log.ids == log.written


async def test_numbered_rotation(log: Log) -> None:
    """Numbers that shift with each rotation do not confuse old files with new ones."""
    stamp = 1_000_000_000
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        for turn in range(4):
            log.write(2)
            os.utime(log.path, (stamp + turn, stamp + turn))
            log.number()
            if turn > 1:
                log.write(1)
                os.utime(log.path, (stamp + turn, stamp + turn + 0.5))
                log.number()
            log.write(1)
            await log.look()
    assert log.ids == log.written


@pytest.mark.parametrize("regrown", [0, 1, 60])
async def test_copytruncate(log: Log, regrown: int) -> None:
    """A log that was copied and cut is read on in the copy and then from its new start, however long it has grown."""
    log.write(20)
    async with sourcing(log.source(from_start=True), log.heard):
        for _ in range(3):
            log.write(3)
            log.copytruncate()
            log.write(regrown)
            await log.look()
    assert log.ids == log.written


async def test_cut_without_a_copy(log: Log) -> None:
    """A log that is cut without a copy is read from its new start; what nobody kept is not invented."""
    log.write(5)
    async with sourcing(log.source(from_start=True), log.heard):
        os.truncate(log.path, 0)
        log.write(2)
        await log.look()
    assert log.ids == log.written


async def test_removed_before_it_was_read(log: Log) -> None:
    """When the file of the checkpoint is gone, everything newer is heard, and nothing older twice."""
    log.write(2)
    log.rotate()
    log.write(2)
    async with sourcing(log.source(from_start=True), log.heard):
        await log.look()
    log.write(2)
    gone = log.rotate()
    log.write(2)
    log.rotate()
    log.write(2)
    gone.unlink()
    async with sourcing(log.source(), log.heard):
        await log.look()
    assert log.ids == [0, 1, 2, 3, 6, 7, 8, 9]


async def test_not_mounted_yet(log: Log, tmp_path: Path) -> None:
    """A new process that starts before the log's file system is there waits, and then goes on where it was."""
    log.write(4)
    async with sourcing(log.source(from_start=True), log.heard):
        await log.look()
    log.write(1)
    shutil.move(log.path, tmp_path / "elsewhere")
    async with sourcing(log.source(), log.heard):
        await log.look()
        assert log.ids == [0, 1, 2, 3]
        shutil.move(tmp_path / "elsewhere", log.path)
        await log.look()
    assert log.ids == log.written


async def test_a_huge_line_arrives_slowly(log: Log) -> None:
    """A line over the limit that is still being written is passed over once, in a live log too."""
    log.write(1)
    async with sourcing(log.source(from_start=True, max_line_bytes=100_000), log.heard):
        for _ in range(6):
            with log.path.open("ab") as file:
                file.write(b"x" * 40_000)
            await log.clock.advance(TICK_SECONDS)
        with log.path.open("ab") as file:
            file.write(b"\n")
        log.write(2)
        await log.look()
    assert log.ids == log.written
    assert log.heard.counts["rejected.oversize"] == 1
    assert log.heard.counts["received"] == 4


async def test_lag(log: Log) -> None:
    """Gauges say how many bytes are not read yet, 0 when all are, and how old the newest event was when it was read."""
    log.write(5)
    source = log.source(from_start=True)
    async with sourcing(source, log.heard):
        await log.look()
        assert log.metrics.value("ugallu_audit_source_lag_bytes", source=source.name) == 0
        late = log.clock.now().timestamp() - log.heard.batches[-1].observations[-1].seen_at.timestamp()
        assert 0 < log.metrics.value("ugallu_audit_source_lag_seconds", source=source.name) <= late
        with log.path.open("ab") as file:
            file.write(b"x" * 77)
        await log.look()
        assert log.metrics.value("ugallu_audit_source_lag_bytes", source=source.name) == 77


async def test_slow_subscribers(log: Log) -> None:
    """A source whose subscribers do not take anything reads nothing ahead, and is cancelled at once."""
    log.write(3000)
    taken: list[int] = []

    async def stuck(batch: object) -> None:
        taken.append(1)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(log.source(from_start=True).run, stuck, None)
        await settled()
        assert taken == [1]
        group.cancel_scope.cancel()


Step = Literal[
    "write", "some", "rotate", "gz", "zst", "pack", "copytruncate", "look", "tick", "restart", "crash", "open"
]
STEPS: tuple[Step, ...] = (
    "write", "some", "rotate", "gz", "zst", "pack", "copytruncate", "look", "tick", "restart", "crash", "open",
)  # fmt: skip


async def live(log: Log, steps: list[Step]) -> None:
    """Play steps against a source that is restarted among them, then let it read to the end."""
    log.write(2)
    pending = list(steps)
    step: Step = "look"
    while True:
        async with sourcing(log.source(from_start=True), log.heard):
            while pending:
                step = pending.pop(0)
                if step in ("restart", "crash"):
                    break
                await play(log, step)
            else:
                for _ in range(4):
                    await log.look()
                return
        if step == "crash":
            log.heard.forget(max(1, len(log.heard.batches) - 2))


async def play(log: Log, step: Step) -> None:
    if step == "write":
        log.write(1)
    elif step == "some":
        log.write(40)
    elif step == "look":
        await log.look()
    elif step == "tick":
        await log.clock.advance(TICK_SECONDS)
    elif step == "pack":
        plain = [path for path in log.path.parent.glob("audit-*.log") if path.stat().st_size]
        if plain:
            log.pack(min(plain), "gz")
    elif step == "copytruncate":
        if log.path.exists() and log.path.stat().st_size:
            log.copytruncate()
    elif step == "open":
        log.path.touch()
    elif log.path.exists() and log.path.stat().st_size:
        log.rotate("" if step == "rotate" else step)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from([step for step in STEPS if step != "copytruncate"]), max_size=16))
def test_any_interleaving(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    """Whatever the order of writes, rotations, compressions, looks, restarts and crashes: each line once, in order."""
    log = Log(tmp_path_factory.mktemp("log"))
    anyio.run(live, log, steps)
    assert log.ids == log.written
    assert log.heard.counts["received"] == len(log.written)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.sampled_from([step for step in STEPS if step not in ("rotate", "gz", "zst", "pack", "open")]), max_size=16
    )
)
def test_any_interleaving_with_copytruncate(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    """The same where the log is copied and cut instead."""
    log = Log(tmp_path_factory.mktemp("log"))
    anyio.run(live, log, steps)
    assert log.ids == log.written
