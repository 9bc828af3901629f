"""A recorded log, read from end to end: for commands that look at events and keep nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ugallu.errors import PermanentError
from ugallu.sources.audit_list import listed
from ugallu.sources.lines import LineReader, Oversize
from ugallu.sources.streams import open_stream

MAX_LINE: Final = 64 << 20


def recorded(path: Path) -> Iterator[bytes]:
    """Yield each audit event of a log, plain, gzip or zstd, as it stands there; lists are taken apart.

    A line that is no event, or too long for one, is the empty text. Raises `PermanentError` for a file that cannot be
    read.
    """
    try:
        stream = open_stream(path)
    except OSError as error:
        raise PermanentError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    try:
        reader = LineReader(stream, MAX_LINE)
        while (found := reader.next()) is not None:
            if isinstance(found, Oversize):
                yield b""
                continue
            for line in found.lines():
                yield from _events(line)
            reader.done(found.size)
        rest = reader.rest()
        if rest is not None:
            yield from _events(b"" if isinstance(rest, Oversize) else rest)
    finally:
        stream.close()


def _events(line: bytes) -> Iterator[bytes]:
    try:
        events = listed(line)
    except PermanentError:
        events = None
    yield from [b""] if events is None else events
