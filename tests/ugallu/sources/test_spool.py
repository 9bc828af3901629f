"""What was acknowledged, on disk: numbers that only grow, the same verdict on repeats whenever it is read, no room too few."""

import errno
import random
import shutil
from collections import Counter
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.observation import Checkpoint
from ugallu.errors import PermanentError, TransientError
from ugallu.journal.port import FullError
from ugallu.logs import logger
from ugallu.settings import LogSettings
from ugallu.sources import seen as seens
from ugallu.sources.seen import Seen
from ugallu.sources.spool import Place, Spool, decode, encode
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.files import FaultyFiles, broken, healthy


class Kept:
    """A spool's directory, and the checkpoints of those who read from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.max_bytes = 16 << 20
        self.files: FaultyFiles | None = None
        self.points: list[Checkpoint] = []

    def spool(self) -> Spool:
        """Return the spool of a new process."""
        return Spool(
            self.folder,
            self.max_bytes,
            checkpoints=lambda: self.points,
            clock=ManualClock(),
            log=logger(LogSettings(level="critical")),
            files=self.files,
        )

    def stand(self, place: Place) -> None:
        """Let the one reader's checkpoint be here."""
        self.points = [point(place)]

    def die(self) -> "Kept":
        """Return what a process finds that starts after this one was killed where it stands."""
        copy = self.folder.with_name(f"{self.folder.name}+")
        shutil.copytree(self.folder, copy)
        after = Kept(copy)
        after.max_bytes, after.points = self.max_bytes, list(self.points)
        return after


def point(place: Place) -> Checkpoint:
    return Checkpoint("audit-webhook", "test", next=place.next, resume=encode(place))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "audit-webhook")


async def read(spool: Spool, place: Place, seen: Seen) -> tuple[Place, list[bytes]]:
    """Read to the end as the source does; return where that is and the events that had not come before."""
    fresh = []
    while place.seq < spool.last:
        for event in await spool.read(place.seq):
            new = not seen.repeats(event.seq, event.data)
            if new:
                fresh.append(event.data)
            place = Place(place.spool, event.seq, place.next + new)
    return place, fresh


async def test_numbers_grow_over_lives(kept: Kept) -> None:
    """Each event has a number, also after a restart, and none is given twice."""
    async with kept.spool().opened() as spool:
        await spool.append([b"1", b"2"])
        assert [(event.seq, event.data) for event in await spool.read(0)] == [(1, b"1"), (2, b"2")]
    async with kept.spool().opened() as spool:
        await spool.append([b"3"])
        assert [(event.seq, event.data) for event in await spool.read(1)] == [(2, b"2"), (3, b"3")]


async def test_who_reads_waits_for_events(kept: Kept) -> None:
    """A reader at the end gets the next events as they are appended, and an error once the spool is closed."""
    found: list[bytes] = []
    spool = kept.spool()

    async def look() -> None:
        found.extend(event.data for event in await spool.read(0))
        with pytest.raises(TransientError, match="closed"):
            await spool.read(1)
        found.append(b"closed")

    async with anyio.create_task_group() as tg, spool.opened():
        tg.start_soon(look)
        await settled()
        assert found == []
        await spool.append([b"late"])
        await settled()
    assert found == [b"late", b"closed"]


async def test_open_as_long_as_somebody_uses_it(kept: Kept) -> None:
    """Receiver and source share the files; whoever is restarted does not close them under the other."""
    spool = kept.spool()
    async with spool.opened():
        async with spool.opened():
            await spool.append([b"1"])
        await spool.append([b"2"])
        assert spool.last == 2
    with pytest.raises(PermanentError, match="not open"):
        await spool.append([b"3"])


async def test_one_process_has_it(kept: Kept) -> None:
    """A second one is told so; it gets the spool once the first is gone."""
    async with kept.spool().opened():
        with pytest.raises(PermanentError, match="another process"):
            async with kept.spool().opened():
                pass
    async with kept.spool().opened():
        pass


async def test_a_full_spool_takes_all_or_nothing(kept: Kept) -> None:
    """What finds no room leaves no trace; what is smaller may still find some; room comes with the reader's checkpoint."""
    kept.max_bytes = 1 << 20
    async with kept.spool().opened() as spool:
        await spool.append([b"a" * 600_000])
        with pytest.raises(FullError):
            await spool.append([b"b", b"c" * 600_000])
        assert spool.last == 1
        await spool.append([b"d"])
        seen = await spool.seen(spool.place(None))
        place, _ = await read(spool, spool.place(None), seen)
        await spool.release(seen)
        with pytest.raises(FullError):  # read, but nobody has it for good
            await spool.append([b"e" * 600_000])
        kept.stand(place)
        await spool.release(seen)
        await spool.append([b"e" * 600_000])
        assert [(event.seq, event.data[:1]) for event in await spool.read(2)] == [(3, b"e")]


async def test_a_large_request_is_written_in_parts(kept: Kept) -> None:
    """Each event of it has its place; when the disk refuses in the middle, what is there is a repeat the next time."""
    files = FaultyFiles()
    kept.files, kept.max_bytes = files, 64 << 20
    events = [b"%d" % number + b"x" * 1_000_000 for number in range(10)]

    def third(operation: str, path: Path) -> int:
        done = sum(called == "pwrite" and "/spool/" in str(at) for called, at in files.calls)
        return errno.ENOSPC if operation == "pwrite" and done > 2 else 0

    async with kept.spool().opened() as spool:
        start = spool.place(None)
        seen = await spool.seen(start)
        files.calls.clear()
        files.plan = third
        with pytest.raises(TransientError):
            await spool.append(events)
        files.plan = healthy
        place, fresh = await read(spool, start, seen)
        assert 0 < len(fresh) < 10
        await spool.append(events)
        assert spool.last == len(fresh) + 10
        assert fresh + (await read(spool, place, seen))[1] == events


async def test_a_large_request_without_room_is_refused_as_one(kept: Kept) -> None:
    """Else its first part, sent again and again, would fill what room there is."""
    kept.max_bytes = 8 << 20
    async with kept.spool().opened() as spool:
        with pytest.raises(FullError):
            await spool.append([b"x" * 1_000_000] * 10)
        assert spool.last == 0


async def test_the_slowest_reader_decides(kept: Kept) -> None:
    """Of two readers the one that is behind keeps its events; one that never read any keeps none."""
    async with kept.spool().opened() as spool:
        await spool.append([b"%d" % number for number in range(10)])
        start = spool.place(None)
        seen = await spool.seen(start)
        await read(spool, start, seen)
        kept.points = [point(Place(start.spool, 7, 7)), point(Place(start.spool, 4, 4)), Checkpoint("x", "new", next=0)]
        await spool.release(seen)
        assert spool.place(None).seq == 4
        assert spool.place(point(Place(start.spool, 7, 7))).seq == 7
        assert spool.place(point(Place(start.spool, 1, 1))).seq == 4


async def test_another_spools_numbers_mean_nothing(kept: Kept) -> None:
    """A checkpoint of another spool does not skip what is in this one."""
    async with kept.spool().opened() as spool:
        await spool.append([b"1", b"2"])
        assert spool.place(point(Place("another", 2, 2))).seq == 0


async def test_a_removed_spool_costs_what_was_in_it(kept: Kept) -> None:
    """Observations go on behind the furthest checkpoint: a reader must not skip what is new for what it once had."""
    async with kept.spool().opened() as spool:
        await spool.append([b"1", b"2", b"3"])
        seen = await spool.seen(spool.place(None))
        place, _ = await read(spool, spool.place(None), seen)
        kept.stand(place)
        await spool.release(seen)
        before = place
    shutil.rmtree(kept.folder)
    async with kept.spool().opened() as spool:
        await spool.append([b"4"])
        place = spool.place(kept.points[0])
        assert (place.next, place.spool != before.spool) == (before.next, True)
        seen = await spool.seen(place)
        assert (await read(spool, place, seen))[1] == [b"4"]


async def test_a_spool_that_lost_its_end_gives_no_number_twice(kept: Kept) -> None:
    """A checkpoint beyond the end (a restored disk, a lost write): what comes now comes behind it."""
    async with kept.spool().opened() as spool:
        await spool.append([b"1"])
        early = kept.die()
        await spool.append([b"2", b"3"])
        place = spool.place(None)
    early.stand(Place(place.spool, 3, 3))
    async with early.spool().opened() as spool:
        await spool.append([b"4"])
        place = spool.place(early.points[0])
        assert [(event.seq, event.data) for event in await spool.read(place.seq)] == [(4, b"4")]


@pytest.mark.parametrize("operation", ["pwrite", "fsync", "open"])
async def test_a_disk_that_refuses_loses_nothing_that_was_acknowledged(kept: Kept, operation: str) -> None:
    """The append says so and is not there, before and after a restart; once the disk obliges, all goes on."""
    files = FaultyFiles()
    kept.files = files
    async with kept.spool().opened() as spool:
        await spool.append([b"1"])
        files.plan = broken(operation, errno.ENOSPC, name="/spool/")
        if operation != "open":  # what is open stays usable
            with pytest.raises(TransientError):
                await spool.append([b"lost", b"too"])
            assert [event.data for event in await spool.read(0)] == [b"1"]
        files.plan = healthy
        await spool.append([b"2"])
        assert [event.data for event in await spool.read(0)] == [b"1", b"2"]
        after = kept.die()
    async with after.spool().opened() as spool:
        assert [event.data for event in await spool.read(0)] == [b"1", b"2"]


async def test_a_release_that_fails_is_only_late(kept: Kept) -> None:
    """Nothing is let go of, the verdict on repeats is not forgotten, and the next try does it."""
    files = FaultyFiles()
    kept.files = files
    async with kept.spool().opened() as spool:
        await spool.append([b"1", b"2"])
        start = spool.place(None)
        seen = await spool.seen(start)
        place, _ = await read(spool, start, seen)
        kept.stand(place)
        for name in ("/seen/", "/cursors/"):
            files.plan = broken("fsync", errno.EIO, name=name)
            with pytest.raises(TransientError):
                await spool.release(seen)
            assert spool.place(None).seq == 0
            files.plan = healthy
        await spool.release(seen)
        assert spool.place(None).seq == 2
        await spool.append([b"2", b"3"])
        again = await spool.seen(spool.place(None))
        assert (await read(spool, spool.place(None), again))[1] == [b"3"]


async def test_a_directory_that_cannot_be_is_named(kept: Kept) -> None:
    """A file where the directory should be: the error names it."""
    kept.folder.write_text("")
    with pytest.raises(PermanentError, match="audit-webhook"):
        async with kept.spool().opened():
            pass


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"seq":"x"}'])
def test_no_place_is_an_error(data: bytes) -> None:
    """A checkpoint of something else is refused, not read as a beginning."""
    with pytest.raises(PermanentError, match="checkpoint"):
        decode(data)


@given(st.integers(0, 1 << 32), st.integers(min_value=20, max_value=120))
@settings(max_examples=40)
def test_killed_at_any_moment_the_verdicts_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int
) -> None:
    """Append, read, save, release and die in any order: each event is fresh once, and counted in the same place as before.

    A reader that dies reads on from its checkpoint and must come to what it came to the first time, or numbers would
    not name the same observations again.
    """
    chance = random.Random(seed)
    kept = Kept(tmp_path_factory.mktemp("spool") / "s")
    sent: list[bytes] = []
    verdicts: dict[int, bool] = {}

    async def live() -> bool:
        """One life; False when the steps are used up."""
        nonlocal steps
        async with kept.spool().opened() as spool:
            place = spool.place(kept.points[0] if kept.points else None)
            seen = await spool.seen(place)
            while steps:
                steps -= 1
                action = chance.choice(("append", "append", "read", "read", "save", "release", "die"))
                if action == "append":
                    events = [b"%d" % chance.randrange(30) for _ in range(chance.randrange(1, 6))]
                    await spool.append(events)
                    sent.extend(events)
                elif action == "read" and place.seq < spool.last:
                    for event in (await spool.read(place.seq))[: chance.randrange(1, 8)]:
                        assert event.data == sent[event.seq - 1]
                        fresh = not seen.repeats(event.seq, event.data)
                        assert verdicts.setdefault(event.seq, fresh) == fresh
                        place = Place(place.spool, event.seq, place.next + fresh)
                elif action == "save":
                    kept.stand(place)
                elif action == "release":
                    await spool.release(seen)
                elif action == "die":
                    return True
        return False

    while anyio.run(live):
        kept = kept.die()
    fresh = Counter(sent[seq - 1] for seq, new in verdicts.items() if new)
    assert set(fresh.values()) <= {1}
    assert set(fresh) == {sent[seq - 1] for seq in verdicts}


async def test_repeats_are_known_over_generations_and_forgotten_in_time(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a repeat is known is bounded by events, whoever restarts in between; what is forgotten costs a second event."""
    monkeypatch.setattr(seens, "GENERATION", 8)
    async with kept.spool().opened() as spool:
        await spool.append([b"x", *[b"%d" % number for number in range(60)]])
        start = spool.place(None)
        seen = await spool.seen(start)
        place, _ = await read(spool, start, seen)
        kept.stand(place)
        await spool.release(seen)
        await spool.append([b"59", b"40", b"x"])
    async with kept.spool().opened() as spool:
        place = spool.place(None)
        seen = await spool.seen(place)
        assert (await read(spool, place, seen))[1] == [b"x"]


def test_digests_are_the_spools_own() -> None:
    """Two spools with the same events share no digest: nobody can prepare two events that meet in one."""
    first, second = Seen("one"), Seen("two")
    for seen in (first, second):
        assert not seen.repeats(1, b"event")
    assert first._fresh != second._fresh
