"""The battery for `Journal`. A subclass in `tests/` says how to open one in a directory."""

from pathlib import Path

import anyio
import pytest

from ugallu.errors import PermanentError
from ugallu.journal.port import Cursor, Journal, Reader, Record, Retention
from ugallu.testing.clock import settled

GENEROUS = Retention()


def read_all(reader: Reader, after: int = 0, limit: int = 512) -> list[Record]:
    """Return everything behind `after`, block by block."""
    found: list[Record] = []
    while block := reader.read(after, limit=limit):
        found += block
        after = block[-1].seq
    return found


class JournalContract:
    """What every `Journal` keeps."""

    def open(self, directory: Path, retention: Retention = GENEROUS) -> Journal:
        """Open or create the journal in a directory."""
        raise NotImplementedError

    async def test_append_numbers(self, tmp_path: Path) -> None:
        """Records are numbered from 1 without a gap, and append returns the last number."""
        journal = self.open(tmp_path)
        assert journal.last == 0
        assert await journal.append([b"a", b"b"]) == 2
        assert await journal.append([b"c"]) == 3
        assert read_all(journal.reader("x")) == [Record(1, b"a"), Record(2, b"b"), Record(3, b"c")]
        assert journal.last == 3
        journal.close()

    async def test_nothing_appended(self, tmp_path: Path) -> None:
        """An empty append writes nothing and returns the present end."""
        journal = self.open(tmp_path)
        await journal.append([b"a"])
        assert await journal.append([]) == 1
        assert len(read_all(journal.reader("x"))) == 1
        journal.close()

    async def test_odd_records(self, tmp_path: Path) -> None:
        """Empty, large and binary records come back as they were."""
        records = [b"", b"\0" * 3, b"x" * (3 << 20), bytes(range(256)), b""]
        journal = self.open(tmp_path)
        await journal.append(records)
        assert [record.data for record in read_all(journal.reader("x"))] == records
        journal.close()
        journal = self.open(tmp_path)
        assert [record.data async for record in journal.records(0)] == records
        journal.close()

    async def test_reopen(self, tmp_path: Path) -> None:
        """What was acknowledged is there after a restart, and numbers go on behind it."""
        for turn in range(5):
            journal = self.open(tmp_path)
            assert journal.last == 2 * turn
            assert await journal.append([b"%d" % turn, b"-"]) == 2 * turn + 2
            journal.close()
        journal = self.open(tmp_path)
        assert [record.data for record in read_all(journal.reader("x"))][::2] == [b"0", b"1", b"2", b"3", b"4"]
        journal.close()

    async def test_concurrent(self, tmp_path: Path) -> None:
        """Batches appended at the same time stay whole, and each caller gets the number of its own last record."""
        journal = self.open(tmp_path)
        told: dict[int, tuple[int, ...]] = {}

        async def write(name: int) -> None:
            for turn in range(10):
                size = 1 + (name + turn) % 4
                last = await journal.append([b"%d/%d/%d" % (name, turn, part) for part in range(size)])
                told[last] = (name, turn, size)

        async with anyio.create_task_group() as group:
            for name in range(16):
                group.start_soon(write, name)
        records = {record.seq: record.data for record in read_all(journal.reader("x"))}
        assert list(records) == list(range(1, journal.last + 1))
        for last, (name, turn, size) in told.items():
            expected = [b"%d/%d/%d" % (name, turn, part) for part in range(size)]
            assert [records[last - size + 1 + part] for part in range(size)] == expected
        assert sum(size for _, _, size in told.values()) == journal.last
        journal.close()

    async def test_cancelled_neighbour(self, tmp_path: Path) -> None:
        """A cancelled append, also the one that carries others to the disk, does not keep its neighbours waiting."""
        journal = self.open(tmp_path)
        done: list[int] = []

        async def write() -> None:
            done.append(await journal.append([b"kept"]))

        for patience in (0, 1, 2, 3):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(journal.append, [b"perhaps"])
                    for _ in range(patience):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(write)
        kept = [record for record in read_all(journal.reader("x")) if record.data == b"kept"]
        assert sorted(record.seq for record in kept) == sorted(done)
        journal.close()

    async def test_limit(self, tmp_path: Path) -> None:
        """A read returns at most its limit, also from the middle of a batch, and nothing at the end."""
        journal = self.open(tmp_path)
        await journal.append([b"%d" % number for number in range(10)])
        reader = journal.reader("x")
        assert [record.seq for record in reader.read(3, limit=4)] == [4, 5, 6, 7]
        assert [record.seq for record in read_all(reader, limit=3)] == list(range(1, 11))
        assert list(reader.read(10)) == []
        journal.close()

    async def test_cursor(self, tmp_path: Path) -> None:
        """A cursor and its state survive a restart together; readers do not share them."""
        journal = self.open(tmp_path)
        await journal.append([b"a"] * 9)
        journal.reader("one").save(Cursor(5, b"state"))
        journal.reader("two").save(Cursor(7))
        await journal.reader("one").store(Cursor(6, b"later"))
        assert journal.reader("one").cursor == Cursor(6, b"later")
        journal.close()
        journal = self.open(tmp_path)
        assert journal.reader("one").cursor == Cursor(6, b"later")
        assert journal.reader("two").cursor == Cursor(7)
        assert journal.reader("three").cursor.seq == 0
        journal.close()

    async def test_reader_is_one(self, tmp_path: Path) -> None:
        """Asking twice for a reader gives the same cursor."""
        journal = self.open(tmp_path)
        await journal.append([b"a"])
        journal.reader("x").save(Cursor(1))
        assert journal.reader("x").cursor.seq == 1
        journal.close()

    async def test_bad_name(self, tmp_path: Path) -> None:
        """A reader's name that could leave the directory is refused."""
        journal = self.open(tmp_path)
        for name in ("", "../x", "A", "a/b", ".", "x" * 65):
            with pytest.raises(PermanentError):
                journal.reader(name)
        journal.close()

    async def test_wait(self, tmp_path: Path) -> None:
        """A waiting reader wakes when a record behind it is durable, and learns when there will be no more."""
        journal = self.open(tmp_path)
        reader = journal.reader("x")
        woken: list[bool] = []

        async def wait() -> None:
            woken.append(await reader.wait(0))
            woken.append(await reader.wait(1))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settled()
            assert woken == []
            await journal.append([b"a"])
            await settled()
            assert woken == [True]
            journal.close()
        assert woken == [True, False]

    async def test_records_stops(self, tmp_path: Path) -> None:
        """`records` ends at the end as it was when it began."""
        journal = self.open(tmp_path)
        await journal.append([b"a"] * 3)
        seen = []
        async for record in journal.records(1):
            seen.append(record.seq)
            await journal.append([b"b"])
        assert seen == [2, 3]
        journal.close()

    async def test_closed(self, tmp_path: Path) -> None:
        """A closed journal takes nothing, and closing twice is no error."""
        journal = self.open(tmp_path)
        journal.close()
        journal.close()
        with pytest.raises(PermanentError):
            await journal.append([b"a"])

    async def test_one_process(self, tmp_path: Path) -> None:
        """A journal that is open cannot be opened again; once closed, it can."""
        journal = self.open(tmp_path)
        with pytest.raises(PermanentError, match="another process"):
            self.open(tmp_path)
        journal.close()
        self.open(tmp_path).close()

    async def test_retention_spares_the_unread(self, tmp_path: Path) -> None:
        """Read records go once the journal is over its size; what stays is whole and ends with the last one."""
        journal = self.open(tmp_path, Retention(max_bytes=64 << 10))
        reader = journal.reader("x")
        for number in range(400):
            last = await journal.append([b"%04d" % number + b"." * 1000])
            reader.save(Cursor(last))
        kept = read_all(journal.reader("late"), journal.reader("late").cursor.seq)
        assert 0 < len(kept) < 120
        assert [record.seq for record in kept] == list(range(kept[0].seq, 401))
        journal.close()
