"""The rotated siblings of a log, oldest first; reads names and inodes, never contents.

Known ways: lumberjack (`audit-2026-11-25T01-02-03.000.log`, what the API server does), logrotate with `dateext`
(`audit.log-20261125`) and with numbers (`audit.log.1`), each plain or with `.gz` or `.zst`.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sibling:
    """One rotated file. `key` grows from older to newer and stays with the file when others rotate."""

    path: Path
    key: str
    inode: int
    device: int
    size: int


def siblings(path: Path) -> list[Sibling]:
    """Return the rotated files of the log at `path`, oldest first.

    While a file is being compressed both forms exist: the plain one, which is whole, is taken.
    """
    name = re.escape(path.name)
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    pattern = re.compile(
        rf"(?:{stem}-(?P<moment>\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{{3}}){suffix}"
        rf"|{name}-(?P<date>\d{{8}}(?:-\d+)?)"
        rf"|{name}\.(?P<number>\d{{1,6}}))(?P<packed>\.gz|\.zst)?"
    )
    found: dict[str, tuple[tuple[str, int], Sibling]] = {}
    try:
        entries = sorted(path.parent.iterdir())  # "x" comes before "x.gz"
    except OSError:
        return []
    for entry in entries:
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        plain = entry.name.removesuffix(match["packed"] or "")
        try:
            status = entry.stat()
        except OSError:  # gone since it was listed
            continue
        if plain in found or not stat.S_ISREG(status.st_mode):
            continue
        if match["number"]:
            # Numbers shift with each rotation; the time of the last write does not, and gzip keeps it.
            key, rank = f"0:{status.st_mtime_ns:020}", ("", -int(match["number"]))
        else:
            key = f"1:{match['moment'] or match['date']}"
            rank = (key, 0)
        found[plain] = (rank, Sibling(entry, key, status.st_ino, status.st_dev, status.st_size))
    return [sibling for _, sibling in sorted(found.values(), key=lambda pair: pair[0])]
