"""The journal on this machine's disk: `python -m benchmarks.journal [DIRECTORY]`.

Appends from 1, 8 and 64 writers at a time (5 records of 500 bytes each), reading it all back, saving a cursor with
20 kB of state, and opening again. The bare disk beside it: write and fsync of the same bytes in a loop.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import anyio

from ugallu.clock import SystemClock
from ugallu.journal.port import Cursor, Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings

RECORDS = [b"x" * 500] * 5
SECONDS = 2.0


def opened(directory: Path) -> SegmentedJournal:
    return SegmentedJournal(directory, Retention(), clock=SystemClock(), metrics=Metrics(), log=logger(LogSettings()))


def bare(directory: Path) -> float:
    fd = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        os.pwrite(fd, b"x" * 2500, done * 2500)
        os.fsync(fd)
        done += 1
    os.close(fd)
    return done / SECONDS


async def appends(journal: SegmentedJournal, writers: int) -> float:
    done = 0
    end = time.perf_counter() + SECONDS

    async def write() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await journal.append(RECORDS)
            done += 1

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(writers):
            group.start_soon(write)
    return done / (time.perf_counter() - start)


async def measure(directory: Path) -> None:
    print(f"bare write and fsync {bare(directory):10,.0f} /s")
    journal = opened(directory / "journal")
    for writers in (1, 8, 64):
        rate = await appends(journal, writers)
        print(f"{writers:3} writers          {rate:10,.0f} batches/s")
    reader = journal.reader("bench")
    after, start = 0, time.perf_counter()
    while block := reader.read(after):
        after = block[-1].seq
    print(f"read                 {after / (time.perf_counter() - start):10,.0f} records/s")
    start = time.perf_counter()
    for _ in range(100):
        reader.save(Cursor(after, b"s" * 20_000))
    print(f"save a cursor        {100 / (time.perf_counter() - start):10,.0f} /s")
    journal.close()
    start = time.perf_counter()
    journal = opened(directory / "journal")
    print(f"open again           {(time.perf_counter() - start) * 1e3:10.1f} ms, {journal.last:,} records")
    journal.close()


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        anyio.run(measure, Path(directory))


if __name__ == "__main__":
    main()
