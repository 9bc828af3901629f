"""The file source against bare decoding: `python -m benchmarks.audit_source [LINES]`.

bare     `msgspec.json.Decoder(AuditRecord).decode`, line by line, on lines already in memory, results kept for a batch
decoder  the source's own decoder on blocks already in memory: lines found, checked and counted as well
source   all of it: reads the file, decodes, numbers, remembers where it stands, publishes
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec

from benchmarks import lines as logs
from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch
from ugallu.clock import SystemClock
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings, LogSettings
from ugallu.sources.audit_decode import AuditDecoder
from ugallu.sources.audit_file import BATCH, AuditFile
from ugallu.sources.lines import BLOCK_BYTES, Block

ROUNDS = 5
TIMES = 8
"""So often is the recording read in one go: starting an event loop is not what is measured."""


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def decode_bare(lines: list[bytes], keep: int) -> None:
    decode = msgspec.json.Decoder(AuditRecord).decode
    for start in range(0, len(lines), keep):
        _ = [decode(line) for line in lines[start : start + keep]]


def blocks_of(data: bytes) -> list[Block]:
    blocks: list[Block] = []
    start = 0
    while start < len(data):
        part = data[start : start + BLOCK_BYTES]
        blocks.append(Block(part, part.rfind(b"\n") + 1))
        start += blocks[-1].size
    return blocks


def decode_blocks(blocks: list[Block]) -> None:
    decoder = AuditDecoder()
    held: list[AuditRecord] = []
    for block in blocks:
        held += decoder.block(block) or ()
        if len(held) >= BATCH:
            held = []


def read(*paths: Path, peak: list[float] | None = None) -> AuditFile:
    settings = AuditSettings(files=tuple(map(str, paths)), follow=False)
    source = AuditFile(settings, SystemClock(), Metrics(), logger(LogSettings()))

    async def drop(_: Batch[Any]) -> None:
        if peak is not None:
            peak.append(max(resident(), peak.pop()))

    anyio.run(source.run, drop, None)
    return source


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    recorded = logs.recorded()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit.log"
        path.write_bytes(b"".join(recorded))
        blocks = blocks_of(b"".join(recorded))
        best = {"bare": 1e9, "decoder": 1e9, "source": 1e9}
        for _ in range(ROUNDS):
            best["bare"] = min(best["bare"], cpu_seconds(lambda: decode_bare(recorded, BATCH)))
            best["decoder"] = min(best["decoder"], cpu_seconds(lambda: decode_blocks(blocks)))
            best["source"] = min(best["source"], cpu_seconds(lambda: read(*[path] * TIMES)) / TIMES)
        for name, seconds in best.items():
            print(f"{name:8}{len(recorded) / seconds:10,.0f} lines/s {best['bare'] / seconds:6.2f}")
        if count:
            del recorded, blocks
            long = logs.write(Path(directory) / "long.log", count)
            before = resident()
            peak = [before]
            source = read(long, peak=peak)
            print(f"{source.counts['parsed']:,} lines: {before:.0f} MB at rest, {peak[0] - before:.0f} MB more at most")


if __name__ == "__main__":
    main()
