"""Audit logs of any length: the recorded incident again and again, each round later and with ids of its own."""

import gzip
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUND = timedelta(minutes=10)
_MOMENT = re.compile(rb"2026-11-25T\d\d:\d\d:\d\d")
_AUDIT_ID = re.compile(rb'"auditID":"[0-9a-f]{8}')


def recorded() -> list[bytes]:
    """Return the lines of the recorded incident."""
    return gzip.decompress((EXAMPLES / "audit.jsonl.gz").read_bytes()).splitlines(keepends=True)


def rounds(count: int) -> Iterator[bytes]:
    """Yield `count` lines; the first round is the recording itself."""
    lines = recorded()
    done = 0
    for turn in range(-(-count // len(lines))):
        later: dict[bytes, bytes] = {}

        def shift(found: re.Match[bytes], turn: int = turn, later: dict[bytes, bytes] = later) -> bytes:
            text = found.group()
            if text not in later:
                later[text] = (datetime.fromisoformat(text.decode()) + ROUND * turn).isoformat().encode()
            return later[text]

        prefix = b'"auditID":"%08x' % turn
        for line in lines[: count - done]:
            yield _AUDIT_ID.sub(prefix, _MOMENT.sub(shift, line), count=1) if turn else line
        done += len(lines)


def write(path: Path, count: int) -> Path:
    """Write `count` lines to `path`, unless a file of that name is there from an earlier run."""
    if not path.exists():
        aside = path.with_suffix(".part")
        with aside.open("wb") as out:
            out.writelines(rounds(count))
        aside.rename(path)
    return path
