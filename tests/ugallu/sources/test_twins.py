"""One API server's events by two roads: each is published once, by whoever had it first, however the process dies."""

import errno
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.port import Publish
from ugallu.errors import PermanentError, TransientError
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings
from ugallu.sources import seen as seens
from ugallu.sources.audit_decode import AuditDecoder
from ugallu.sources.twins import Once, Twins
from ugallu.testing.clock import ManualClock
from ugallu.testing.files import FaultyFiles, broken, healthy
from ugallu.testing.sourcing import Heard

LOG = logger(LogSettings(level="critical"))


def record(number: int, **more: Any) -> AuditRecord:
    return AuditRecord(audit_id=f"id-{number}", verb="get", request_uri=f"/{number}", **more)


class Stream:
    """A source that can be read again from anywhere: its events, and how many of them it shows in this life."""

    observes = AuditRecord

    def __init__(self, name: str, numbers: list[int]) -> None:
        self.name = name
        self.numbers = numbers

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        at = int(start.resume) if start is not None and start.resume else 0
        while at < len(self.numbers):
            some = self.numbers[at : at + 3]
            counts = {"received": at + len(some), "parsed": at + len(some)}
            await publish(Batch(self.name, at, [record(number) for number in some], b"%d" % (at + len(some)), counts))
            at += len(some)


def twins(folder: Path, files: FaultyFiles | None = None) -> Twins:
    return Twins(folder, clock=ManualClock(), log=LOG, files=files)


async def play(stream: Stream, shared: Twins, heard: Heard, metrics: Metrics | None = None) -> None:
    await Once(stream, shared, metrics or Metrics()).run(heard.publish, heard.checkpoint())


def numbers(heard: Heard) -> list[int]:
    return [int(found.audit_id.removeprefix("id-")) for found in heard.observations]


async def test_what_one_has_published_the_other_leaves_out(tmp_path: Path) -> None:
    """In whatever order they come; the books of each still close, and say how much another one had."""
    shared, first, second, metrics = twins(tmp_path / "t"), Heard(), Heard(), Metrics()
    async with shared.opened():
        await play(Stream("file", [1, 2, 3, 4, 5, 6, 7]), shared, first)
        await play(Stream("webhook", [3, 9, 1, 7, 8]), shared, second, metrics)
    assert numbers(first) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(second) == [9, 8]
    assert first.counts == {"received": 7, "parsed": 7}
    assert second.counts == {"received": 5, "parsed": 2, "duplicate": 3, "duplicate.elsewhere": 3}
    assert metrics.value("ugallu_audit_duplicate_total") == 3


async def test_a_source_never_leaves_out_its_own(tmp_path: Path) -> None:
    """What it shows twice it publishes twice: telling repeats apart is its own business. Read again, it is there again.

    And not noted again: a source that is restarted over and over does not fill the disk.
    """
    files = FaultyFiles()
    shared, heard = twins(tmp_path / "t", files), Heard()
    async with shared.opened():
        await play(Stream("file", [1, 1, 2, 1]), shared, heard)
        assert numbers(heard) == [1, 1, 2, 1]
        heard.forget(0)
        files.calls.clear()
        await play(Stream("file", [1, 1, 2, 1]), shared, heard)
        assert files.calls == []
    assert numbers(heard) == [1, 1, 2, 1]


async def test_a_batch_of_nothing_new_still_moves_the_checkpoint(tmp_path: Path) -> None:
    """Else a quiet twin would be read again from its beginning after every restart."""
    shared, heard = twins(tmp_path / "t"), Heard()
    async with shared.opened():
        await play(Stream("file", [1, 2, 3]), shared, Heard())
        await play(Stream("webhook", [1, 2, 3]), shared, heard)
    assert numbers(heard) == []
    point = heard.checkpoint()
    assert point is not None
    assert (point.resume, point.next) == (b"3", 0)


def test_both_backends_write_the_same_event_alike() -> None:
    """The log file says `kind` in each line, the webhook once a list; another body, time or caller is another event."""
    about = {"auditID": "a", "stage": "Panic", "verb": "get", "user": {"username": "u"}, "requestObject": {"a": [1, 2]}}
    decoder = AuditDecoder()
    line = json.dumps({"kind": "Event", "apiVersion": "audit.k8s.io/v1", **about}, separators=(",", ":"))
    (_, from_file), *_ = decoder.line(line.encode())
    from_list = decoder.item(json.dumps(about, separators=(",", ":")).encode())
    assert from_list is not None
    assert msgspec.json.encode(from_file) == msgspec.json.encode(from_list)
    for other in ({"requestObject": {"a": [1, 3]}}, {"stageTimestamp": "x"}, {"user": {"username": "v"}}):
        found = decoder.item(json.dumps({**about, **other}, separators=(",", ":")).encode())
        assert found is not None
        assert msgspec.json.encode(found) != msgspec.json.encode(from_list)


async def test_an_audit_id_hides_nothing(tmp_path: Path) -> None:
    """Two events that share what a client chooses, and every time, are two as long as anything else differs."""
    shared = twins(tmp_path / "t")
    async with shared.opened():
        assert await shared.admit("file", [record(1)])
        other = record(1, request_object=msgspec.Raw(b'{"x":1}'))
        assert await shared.admit("webhook", [other, record(1)]) == [other]


async def test_a_disk_that_refuses_publishes_nothing(tmp_path: Path) -> None:
    """The source ends with an error and is started again; the other one is not told that the first had the event."""
    files = FaultyFiles()
    shared, first, second = twins(tmp_path / "t", files), Heard(), Heard()
    async with shared.opened():
        files.plan = broken("pwrite", errno.ENOSPC)
        with pytest.raises(TransientError):
            await play(Stream("file", [1, 2]), shared, first)
        files.plan = healthy
        await play(Stream("webhook", [1]), shared, second)
        await play(Stream("file", [1, 2]), shared, first)
    assert (numbers(first), numbers(second)) == ([2], [1])


async def test_stopped_while_the_disk_settles(tmp_path: Path) -> None:
    """A source that is cancelled while its events are noted has them noted: the other one does not publish them as well."""
    shared, heard = twins(tmp_path / "t"), Heard()
    async with shared.opened():
        async with anyio.create_task_group() as tg:
            tg.start_soon(play, Stream("file", [1, 2, 3]), shared, heard)
            await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        await play(Stream("webhook", [1, 2, 3]), shared, other := Heard())
        await play(Stream("file", [1, 2, 3]), shared, heard)
    assert sorted(numbers(heard) + numbers(other)) == [1, 2, 3]


async def test_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that lags by more than is remembered costs a second event: bounded memory, nothing lost."""
    monkeypatch.setattr(seens, "GENERATION", 8)
    shared, heard = twins(tmp_path / "t"), Heard()
    async with shared.opened():
        await play(Stream("file", list(range(100))), shared, Heard())
        await play(Stream("webhook", [1, 99]), shared, heard)
    assert numbers(heard) == [1]


@pytest.mark.parametrize("data", [b"", b"\x93", msgspec.msgpack.encode((b"k", "file", b"odd"))])
async def test_a_list_of_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    """And the error says what to remove."""
    journal = SegmentedJournal(tmp_path / "t", Retention(), clock=ManualClock(), metrics=Metrics(), log=LOG)
    await journal.append([data])
    journal.close()
    with pytest.raises(PermanentError, match="remove the folder"):
        async with twins(tmp_path / "t").opened():
            pass


class Reader:
    """Somebody who reads both streams, dies with the process, and goes on from what was durable of each."""

    def __init__(self) -> None:
        self.points: dict[str, Checkpoint] = {}
        self.inspected: dict[str, list[int]] = {"file": [], "webhook": []}
        self.next: dict[str, int] = {}

    def take(self, batch: Batch[AuditRecord]) -> None:
        """Inspect what lies behind the checkpoint, as a worker does."""
        known = self.next.setdefault(batch.source, 0)
        for number, found in enumerate(batch.observations, batch.first):
            if number >= known:
                self.inspected[batch.source].append(int(found.audit_id.removeprefix("id-")))
        self.next[batch.source] = max(known, batch.first + len(batch.observations))
        self.due = Checkpoint(
            batch.source, "reader", next=self.next[batch.source], resume=batch.resume, counts=batch.counts
        )

    def save(self) -> None:
        self.points[self.due.source] = self.due

    def die(self) -> None:
        """Forget what was not durable."""
        for source, point in self.points.items():
            del self.inspected[source][point.next :]
        for source in self.inspected:
            if source not in self.points:
                self.inspected[source].clear()
        self.next = {source: point.next for source, point in self.points.items()}


@given(st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_killed_at_any_moment_each_event_is_seen_once(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Two streams that share most events, two readers that are not equally far, any interleaving, any number of deaths.

    Every reader has each event exactly once in the end, from one stream or the other.
    """
    chance = random.Random(seed)
    folder = tmp_path_factory.mktemp("twins") / "t"
    all_numbers = list(range(24))
    streams = {
        "file": Stream("file", [number for number in all_numbers if chance.random() < 0.9]),
        "webhook": Stream("webhook", chance.sample(all_numbers, 20)),
    }
    readers = [Reader(), Reader()]

    async def live() -> bool:
        """One life; False when both streams are at their end for everybody."""
        shared = twins(folder)
        metrics = Metrics()
        turn = anyio.Semaphore(1)
        calm = chance.random() < 0.3
        async with shared.opened(), anyio.create_task_group() as tg:

            async def publish(batch: Batch[AuditRecord]) -> None:
                async with turn:
                    await anyio.lowlevel.checkpoint()
                    if not calm and chance.random() < 0.15:
                        tg.cancel_scope.cancel()  # killed: nothing after this happens
                        await anyio.sleep_forever()
                    for reader in readers:
                        reader.take(batch)
                        if calm or chance.random() < 0.5:
                            reader.save()

            async def play(stream: Stream) -> None:
                for _ in range(chance.randrange(4)):
                    await anyio.lowlevel.checkpoint()
                known = [reader.points.get(stream.name) for reader in readers]
                start = None if None in known else min(filter(None, known), key=lambda point: point.next)
                await Once(stream, shared, metrics).run(publish, start)

            for stream in streams.values():
                tg.start_soon(play, stream)
        return not calm

    while anyio.run(live):
        left = folder.with_name(f"{folder.name}+")
        shutil.copytree(folder, left)
        folder = left
        for reader in readers:
            reader.die()
    for reader in readers:
        seen = Counter(reader.inspected["file"] + reader.inspected["webhook"])
        shown = {*streams["file"].numbers, *streams["webhook"].numbers}
        assert seen == Counter(shown)
