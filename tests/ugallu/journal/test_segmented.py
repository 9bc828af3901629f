"""The journal on a disk that is full, torn, rotten, or lies about fsync."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from ugallu.clock import Clock, SystemClock
from ugallu.errors import PermanentError, TransientError
from ugallu.journal.files import Files
from ugallu.journal.port import Cursor, FullError, Reader, Record, Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.contracts.journal import GENEROUS, read_all
from ugallu.testing.files import SHORT, FaultyFiles, SmallDisk, broken, flaky, healthy


def opened(
    directory: Path,
    retention: Retention = GENEROUS,
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    segment_bytes: int = 0,
    metrics: Metrics | None = None,
) -> SegmentedJournal:
    return SegmentedJournal(
        directory,
        retention,
        clock=clock or SystemClock(),
        metrics=metrics or Metrics(),
        log=logger(LogSettings(level="critical")),
        files=files,
        segment_bytes=segment_bytes,
    )


def texts(journal: SegmentedJournal, after: int = 0) -> list[bytes]:
    return [record.data for record in read_all(journal.reader("test"), after)]


def kill(journal: SegmentedJournal) -> None:
    """End as `kill -9` does: nothing is written any more, and the system closes the files."""
    journal._release()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["pwrite", "fsync"])
async def test_refused_append(tmp_path: Path, operation: str, number: int) -> None:
    """An append that the disk refuses names path and errno, leaves no trace, and later ones succeed without a gap."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    await journal.append([b"a"])
    files.plan = broken(operation, number)
    for _ in range(3):
        with pytest.raises(TransientError) as caught:
            await journal.append([b"never", b"seen"])
        assert errno.errorcode[number] in str(caught.value)
        assert str(tmp_path) in caught.value.where
        assert texts(journal) == [b"a"]
    files.plan = healthy
    assert await journal.append([b"b"]) == 2
    assert texts(journal) == [b"a", b"b"]
    kill(journal)
    journal = opened(tmp_path)
    assert texts(journal) == [b"a", b"b"]
    assert journal.books() == {"damaged": 0, "missing": 0, "torn": 0, "lost.test": 0}
    journal.close()


async def test_short_write(tmp_path: Path) -> None:
    """A write that stops half-way is continued, and cut off when it cannot be."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    calls = iter([SHORT, SHORT, 0])
    files.plan = lambda operation, path: next(calls) if operation == "pwrite" else 0
    await journal.append([b"whole"])
    stuck = iter([SHORT, errno.ENOSPC])
    files.plan = lambda operation, path: next(stuck) if operation == "pwrite" else 0
    with pytest.raises(TransientError):
        await journal.append([b"half"])
    files.plan = healthy
    kill(journal)
    journal = opened(tmp_path)
    assert texts(journal) == [b"whole"]
    assert journal.books()["torn"] == 0
    journal.close()


async def test_no_segment_is_trusted_after_a_failed_fsync(tmp_path: Path) -> None:
    """Even when the tail cannot be cut off, what was refused stays refused after a crash, and its numbers are free."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    await journal.append([b"a"])
    files.plan = lambda operation, path: (
        errno.EIO if operation == "truncate" or (operation == "fsync" and path.name == "0000000001.seg") else 0
    )
    with pytest.raises(TransientError):
        await journal.append([b"refused"])
    assert not journal.haunted
    assert await journal.append([b"b"]) == 2
    assert len(segments(tmp_path)) == 2
    assert b"refused" in segments(tmp_path)[0].read_bytes()
    kill(journal)
    journal = opened(tmp_path)
    assert texts(journal) == [b"a", b"b"]
    assert journal.books()["damaged"] == 0
    journal.close()


async def test_total_refusal_is_told(tmp_path: Path) -> None:
    """When the disk refuses to cut and to create, the journal says so, and mends itself once it can."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    await journal.append([b"a"])
    files.plan = lambda operation, path: errno.EIO if operation in ("truncate", "fsync", "unlink") else 0
    with pytest.raises(TransientError):
        await journal.append([b"refused"])
    haunted = [journal.haunted]
    files.plan = healthy
    await journal.append([b"b"])
    haunted.append(journal.haunted)
    assert haunted == [True, False]
    kill(journal)
    journal = opened(tmp_path)
    assert texts(journal) == [b"a", b"b"]
    journal.close()


async def test_a_half_made_segment_voids_nothing(tmp_path: Path) -> None:
    """A segment whose making failed and cannot be undone does not void what is acknowledged after it."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files, segment_bytes=64)
    await journal.append([b"a"])
    files.plan = lambda operation, path: (
        errno.EIO if (operation, path) == ("open", tmp_path) or operation == "unlink" else 0
    )
    with pytest.raises(TransientError):
        await journal.append([b"refused"])
    files.plan = healthy
    await journal.append([b"b"])
    kill(journal)
    journal = opened(tmp_path)
    assert texts(journal) == [b"a", b"b"]
    journal.close()


async def test_repeated_failures_leave_no_litter(tmp_path: Path) -> None:
    """A disk whose every fsync fails does not fill the directory with empty segments."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    files.plan = lambda operation, path: errno.EIO if operation == "fsync" and files.calls[-2][0] == "pwrite" else 0
    for _ in range(20):
        with pytest.raises(TransientError):
            await journal.append([b"x"])
    assert len(segments(tmp_path)) <= 2
    journal.close()


async def test_one_fsync_for_all_who_wait(tmp_path: Path) -> None:
    """Appends that come while the disk is busy share the next fsync."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    files.calls.clear()
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(journal.append, [b"x"])
    assert journal.last == 200
    assert sum(operation == "fsync" for operation, _ in files.calls) <= 3
    journal.close()


@pytest.mark.parametrize("operation", ["open", "pwrite", "fsync", "replace"])
async def test_refused_cursor(tmp_path: Path, operation: str) -> None:
    """A cursor that cannot be saved leaves the old one, in memory and on disk."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    await journal.append([b"a"] * 5)
    reader = journal.reader("x")
    reader.save(Cursor(1, b"one"))
    reader.save(Cursor(2, b"two"))
    files.plan = broken(operation, errno.ENOSPC, name="cursors")
    with pytest.raises(TransientError, match="ENOSPC"):
        reader.save(Cursor(3, b"three"))
    assert reader.cursor == Cursor(2, b"two")
    kill(journal)
    journal = opened(tmp_path)
    assert journal.reader("x").cursor == Cursor(2, b"two")
    journal.reader("x").save(Cursor(4, b"four"))
    journal.close()
    journal = opened(tmp_path)
    assert journal.reader("x").cursor == Cursor(4, b"four")
    journal.close()


async def test_every_flipped_byte_of_a_cursor(tmp_path: Path) -> None:
    """A rotten cursor is noticed and the one before it used; the next save does not bury that one."""
    journal = opened(tmp_path)
    await journal.append([b"a"] * 5)
    journal.reader("x").save(Cursor(2, b"two"))
    journal.reader("x").save(Cursor(3, b"three"))
    journal.close()
    file = tmp_path / "cursors" / "x.cursor"
    good = file.read_bytes()
    previous = file.with_name("x.cursor.previous").read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1
        file.write_bytes(bad)
        journal = opened(tmp_path)
        assert journal.reader("x").cursor == Cursor(2, b"two")
        assert journal.books()["damaged"] == 1
        kill(journal)
        assert file.with_name("x.cursor.previous").read_bytes() == previous


async def test_numbers_are_never_reused(tmp_path: Path) -> None:
    """When the segments are gone but a cursor remains, new records are numbered behind it, so that it sees them."""
    journal = opened(tmp_path)
    await journal.append([b"a"] * 5)
    journal.reader("x").save(Cursor(5))
    journal.close()
    for path in segments(tmp_path):
        path.unlink()
    journal = opened(tmp_path)
    assert await journal.append([b"new"]) == 6
    assert list(journal.reader("x").read(5)) == [Record(6, b"new")]
    journal.close()


async def test_lost_tail_behind_a_cursor(tmp_path: Path) -> None:
    """A tail that was lost although a reader had seen it is reported, and its numbers stay taken."""
    journal = opened(tmp_path)
    await journal.append([b"a"])
    await journal.append([b"b"])
    journal.reader("x").save(Cursor(2))
    kill(journal)
    with segments(tmp_path)[0].open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 1)
    journal = opened(tmp_path)
    assert journal.books()["missing"] == 1
    assert await journal.append([b"c"]) == 3
    assert list(journal.reader("x").read(2)) == [Record(3, b"c")]
    journal.close()


async def test_every_flipped_byte_of_a_journal(tmp_path: Path) -> None:
    """One flipped byte anywhere costs at most the batch it is in, and is always told."""
    whole = [b"%02d" % number for number in range(12)]
    source = tmp_path / "whole"
    journal = opened(source, segment_bytes=150)
    for number in range(0, 12, 2):
        await journal.append(whole[number : number + 2])
    journal.close()
    good = {path.name: path.read_bytes() for path in segments(source)}
    assert len(good) == 3
    for name, data in good.items():
        for at in range(len(data)):
            directory = tmp_path / f"{name}-{at}"
            directory.mkdir()
            for other, content in good.items():
                (directory / other).write_bytes(content)
            bad = bytearray(data)
            bad[at] ^= 0x10
            (directory / name).write_bytes(bad)
            journal = opened(directory)
            kept = texts(journal)
            books = journal.books()
            lost = [record for record in whole if record not in kept]
            assert kept == [record for record in whole if record in kept]
            assert len(lost) in (0, 2)
            assert books["damaged"] + books["torn"] > 0
            assert books["missing"] == len(lost)
            assert await journal.append([b"next"]) == 13
            journal.close()


async def test_a_lost_segment_in_the_middle(tmp_path: Path) -> None:
    """A segment that is noise from end to end costs its own records, is set aside and counted, and later ones stay."""
    journal = opened(tmp_path, segment_bytes=64)
    for number in range(5):
        await journal.append([b"%d" % number])
    journal.close()
    victim = segments(tmp_path)[2]
    victim.write_bytes(os.urandom(victim.stat().st_size))
    journal = opened(tmp_path)
    assert texts(journal) == [b"0", b"1", b"3", b"4"]
    assert journal.books()["missing"] == 1
    assert (tmp_path / "quarantine" / victim.name).exists()
    journal.close()


async def test_rot_while_open(tmp_path: Path) -> None:
    """A byte that rots under an open journal is noticed when it is read, not handed out."""
    journal = opened(tmp_path)
    for number in range(4):
        await journal.append([b"record %d" % number])
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"record 1", b"record 7"))
    assert texts(journal) == [b"record 0", b"record 2", b"record 3"]
    assert journal.books()["missing"] == 1
    assert await journal.append([b"record 4"]) == 5
    journal.close()


async def test_unread_records_go_last_and_are_counted(tmp_path: Path) -> None:
    """Past its size the journal takes from slow readers, oldest first, and tells each by name what it lost."""
    metrics = Metrics()
    journal = opened(tmp_path, Retention(max_bytes=20_000), segment_bytes=2000, metrics=metrics)
    slow, quick = journal.reader("slow"), journal.reader("quick")
    slow.save(Cursor(3))
    for _ in range(100):
        last = await journal.append([b"." * 500])
        quick.save(Cursor(last))
    first = slow.read(3)[0].seq
    assert first > 4
    assert journal.books()["lost.slow"] == first - 4
    assert journal.books()["lost.quick"] == 0
    assert metrics.value("ugallu_journal_lost_total", reader="slow") == first - 4
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 22_000
    journal.close()
    journal = opened(tmp_path, Retention(max_bytes=20_000))
    assert journal.books()["lost.slow"] == first - 4
    journal.close()


async def test_age(tmp_path: Path) -> None:
    """Old segments go by age once they are read, and not before."""
    clock = ManualClock()
    journal = opened(tmp_path, Retention(max_age_seconds=800), clock=clock)
    reader = journal.reader("x")
    for _ in range(30):
        await clock.advance(100.0)
        await journal.append([b"x"])
    assert len(texts(journal)) == 30
    reader.save(Cursor(30))
    journal.reader("test").save(Cursor(30))
    await clock.advance(101.0)
    await journal.append([b"y"])
    assert len(texts(journal)) < 15
    assert journal.books()["lost.x"] == 0
    journal.close()


async def fill(journal: SegmentedJournal, batch: list[bytes]) -> None:
    while True:
        await journal.append(batch)


async def test_a_spool_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """Nothing unread is ever removed: an append over the size is refused whole, and fits once readers have got on."""
    journal = opened(tmp_path, Retention(max_bytes=64 << 10, refuse=True))
    reader = journal.reader("test")
    batch = [b"x" * 1000] * 10
    with pytest.raises(FullError):
        await fill(journal, batch)
    accepted = journal.last
    assert accepted % 10 == 0
    assert journal.size <= 64 << 10
    assert await journal.append([b"small"]) == accepted + 1
    assert len(texts(journal)) == accepted + 1
    reader.save(Cursor(accepted + 1))
    assert await journal.append(batch) == accepted + 11
    assert journal.first > 1
    assert "lost.test" in journal.books()
    assert journal.books()["lost.test"] == 0
    journal.close()


async def test_a_spool_that_was_read_has_room_for_one_large_append(tmp_path: Path) -> None:
    """What fills the segment in use is in nobody's way once it is read."""
    journal = opened(tmp_path, Retention(max_bytes=64 << 10, refuse=True))
    reader = journal.reader("test")
    large = [b"x" * (60 << 10)]
    for number in range(1, 5):
        assert await journal.append(large) == number
        with pytest.raises(FullError):
            await journal.append(large)
        reader.save(Cursor(number))
    assert len(segments(tmp_path)) == 1
    journal.close()


async def test_a_spool_leaves_the_last_of_the_disk_to_others(tmp_path: Path) -> None:
    """Refused well before its own bound: its reader's cursor has a place, and with it there is room again."""
    journal = opened(tmp_path, Retention(max_bytes=1 << 20, refuse=True), files=SmallDisk(tmp_path, 128 << 10))
    reader = journal.reader("test")
    with pytest.raises(FullError, match="the disk is nearly full"):
        await fill(journal, [b"x" * 1000] * 10)
    assert journal.size < 112 << 10
    accepted = journal.last
    reader.save(Cursor(accepted, b"s" * 4000))
    assert await journal.append([b"x" * 1000] * 10) == accepted + 10
    journal.close()


async def test_a_full_disk_costs_history_before_it_refuses(tmp_path: Path) -> None:
    """What every reader is done with makes room for what is new, and unread records for nothing."""
    journal = opened(tmp_path, files=SmallDisk(tmp_path, 128 << 10), segment_bytes=16 << 10)
    reader = journal.reader("test")
    batch = [b"x" * 1000] * 10
    for _ in range(40):
        reader.save(Cursor(await journal.append(batch)))
    done = reader.cursor.seq
    with pytest.raises(TransientError, match="ENOSPC"):
        await fill(journal, batch)
    assert journal.first == done + 1
    assert [record.seq for record in read_all(reader, done)] == list(range(done + 1, journal.last + 1))
    assert journal.books()["lost.test"] == 0
    journal.close()


async def test_a_cursor_gets_on_when_the_disk_is_full(tmp_path: Path) -> None:
    """To the last byte: the cursor before the present one makes room for the next, and the journal goes on behind it."""
    disk = SmallDisk(tmp_path, 64 << 10)
    journal = opened(tmp_path, files=disk, segment_bytes=16 << 10)
    reader = journal.reader("test")
    for number in (1, 2):
        await journal.append([b"x"])
        reader.save(Cursor(number, b"state" * 20))
    with pytest.raises(TransientError, match="ENOSPC"):
        await fill(journal, [b"x" * 1000])
    (tmp_path / "ballast").write_bytes(bytes(disk.space(tmp_path).free))
    end = Cursor(journal.last, b"other" * 20)
    reader.save(end)
    assert await journal.append([b"x" * 1000]) == end.seq + 1
    journal.close()
    assert opened(tmp_path).reader("test").cursor == end


async def test_only_the_append_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Appends that share an fsync do not share a refusal."""
    journal = opened(tmp_path, Retention(max_bytes=64 << 10, refuse=True))
    journal.reader("test")
    refused: list[str] = []

    async def add(name: str, size: int) -> None:
        try:
            await journal.append([name.encode() * size])
        except FullError:
            refused.append(name)

    async with anyio.create_task_group() as tg:
        for name, size in (("a", 100), ("b", 100), ("c", 70_000), ("d", 100)):
            tg.start_soon(add, name, size)
    assert refused == ["c"]
    assert sorted(text[:1] for text in texts(journal)) == [b"a", b"b", b"d"]
    journal.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
async def test_no_right_to_write(tmp_path: Path, number: int) -> None:
    """A directory that cannot be written is a permanent error with a fix, and leaves no lock behind."""
    files = FaultyFiles(broken("open", number, name=".seg"))
    with pytest.raises(PermanentError, match="right to write"):
        opened(tmp_path, files=files)
    opened(tmp_path).close()


class History:
    """What was asked of a journal over many lives, and what it answered."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, int] = {}
        """By what it is, under which number."""
        self.refused: set[bytes] = set()
        self.haunting: set[bytes] = set()
        """Refused ones that the disk would not let us remove: a crash may bring them back."""
        self.cursors = [Cursor()]
        """The one saved last, then those whose save was refused since: the disk may have kept one of them."""

    async def append(self, journal: SegmentedJournal, record: bytes) -> None:
        try:
            number = await journal.append([record])
        except TransientError:
            self.refused.add(record)
            if journal.haunted:
                self.haunting.add(record)
        else:
            self.acknowledged[record] = number
            self.haunting.clear()

    def save(self, reader: Reader, cursor: Cursor) -> None:
        try:
            reader.save(cursor)
        except TransientError:
            assert reader.cursor == self.cursors[0]
            self.cursors.append(cursor)
        else:
            self.cursors = [cursor]

    def check(self, journal: SegmentedJournal) -> None:
        records = read_all(journal.reader("test"))
        present = [record.data for record in records]
        back = set(present) & self.haunting
        assert len(present) == len(set(present))
        # A full disk costs what was read.
        assert journal.first - 1 <= journal.reader("x").cursor.seq
        assert set(present) == {each for each, number in self.acknowledged.items() if number >= journal.first} | back
        assert not set(present) & (self.refused - back)
        assert journal.books()["missing"] == 0
        assert journal.reader("x").cursor in self.cursors
        self.cursors = [journal.reader("x").cursor]
        self.acknowledged |= {record.data: record.seq for record in records if record.data in back}
        self.refused -= back
        self.haunting.clear()


@pytest.mark.parametrize("seed", range(40))
async def test_random_faults(tmp_path: Path, seed: int) -> None:
    """Whatever fails and whenever it dies: acknowledged is present exactly once, or was read; refused is absent, no number skipped."""
    chance = random.Random(seed)
    history = History()
    number = 0
    for _ in range(12):
        files = FaultyFiles(flaky(chance, 0.05))
        try:
            journal = opened(tmp_path, files=files, segment_bytes=400)
        except TransientError:
            continue
        reader = journal.reader("x")
        for _ in range(chance.randrange(1, 12)):
            files.plan = flaky(chance, 0.3) if chance.random() < 0.5 else healthy
            async with anyio.create_task_group() as group:
                for _ in range(chance.randrange(1, 4)):
                    number += 1
                    group.start_soon(history.append, journal, b"%d" % number)
            if chance.random() < 0.3:
                history.save(reader, Cursor(chance.randrange(reader.cursor.seq, journal.last + 1), b"%d" % number))
        files.plan = flaky(chance, 0.3) if chance.random() < 0.3 else healthy
        if chance.random() < 0.5:
            kill(journal)
        else:
            journal.close()
        journal = opened(tmp_path)
        numbers = [record.seq for record in read_all(journal.reader("test"))]
        assert numbers == list(range(journal.first, journal.last + 1))
        history.check(journal)
        journal.close()


async def test_kill(tmp_path: Path) -> None:
    """A process killed while it appends loses nothing that it was told is durable, and no batch is half there."""
    script = """
import sys, anyio
from pathlib import Path
from ugallu.clock import SystemClock
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings

async def main():
    journal = SegmentedJournal(sys.argv[1], Retention(), clock=SystemClock(), metrics=Metrics(),
                               log=logger(LogSettings(level="critical")), segment_bytes=20000)
    async def write(name):
        for turn in range(10**6):
            last = await journal.append([b"%d %d %d" % (name, turn, part) for part in range(3)])
            sys.stdout.write(f"{name} {turn} {last}\\n")
            sys.stdout.flush()
    async with anyio.create_task_group() as group:
        for name in range(4):
            group.start_soon(write, name)
anyio.run(main)
"""
    for turn in range(3):
        directory = tmp_path / str(turn)
        child = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
            [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(50 + 217 * turn)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        journal = opened(directory)
        records = texts(journal)
        for line in told:
            if line.endswith("\n"):
                name, step, last = map(int, line.split())
                assert records[last - 3 : last] == [b"%d %d %d" % (name, step, part) for part in range(3)]
        assert len(records) % 3 == 0
        assert journal.books()["missing"] == 0
        journal.close()


async def test_nobody_else_may_look(tmp_path: Path) -> None:
    """Findings hold names and addresses: the journal and all that is in it are for this user alone."""
    made = opened(tmp_path / "state" / "journal")
    await made.append([b"x"])
    made.close()
    for path in (tmp_path / "state" / "journal").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "journal").stat().st_mode & 0o777 == 0o700


async def test_a_cursor_is_stored_beside_the_loop(tmp_path: Path) -> None:
    """While the disk settles everything else goes on; the cursor counts once it is durable."""
    files, settle = FaultyFiles(), threading.Event()
    journal = opened(tmp_path, files=files)
    await journal.append([b"x"])
    slow: list[bool] = []

    def plan(operation: str, path: Path) -> int:
        if operation == "fsync" and "cursors" in str(path):
            slow.append(settle.wait(10))
        return 0

    files.plan = plan
    reader = journal.reader("test")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.store, Cursor(1, b"state"))
        await settled()
        assert reader.cursor == Cursor()
        settle.set()
    assert reader.cursor == Cursor(1, b"state")
    assert slow == [True, True]
    journal.close()
