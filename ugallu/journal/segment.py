"""`Segment`: one file of the journal, read by sequence number; knows nothing of readers or retention."""

import contextlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from ugallu.journal.files import Files, read_all, sync_directory, write_all
from ugallu.journal.frames import (
    HEADER_BYTES,
    Frame,
    Header,
    Hole,
    Verdict,
    decode_header,
    encode_header,
    frame_at,
    judge,
    records_of,
    survey,
)
from ugallu.journal.port import Record

_RUN_BYTES = 128 << 10
"""Frames are fetched in runs of about this size: one system call for many small batches."""


class Damage(Exception):  # noqa: N818 - never leaves the package
    """A frame that was whole when the index was made no longer is."""


class _Index:
    """Where the frames of a segment begin and end: 24 bytes a frame."""

    __slots__ = ("ends", "firsts", "starts")

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.starts = array("Q")
        self.ends = array("Q")

    def add(self, frame: Frame) -> None:
        if frame.following > frame.first:
            self.firsts.append(frame.first)
            self.starts.append(frame.start)
            self.ends.append(frame.end)


class Segment:
    """Records `first` to `next - 1` (0 or more of them), in `end` bytes that are durable."""

    def __init__(self, files: Files, path: Path, ordinal: int, header: Header) -> None:
        self.path = path
        self.ordinal = ordinal
        self.first = header.first
        self.created = header.created
        self.next = header.first
        self.end = HEADER_BYTES
        self.missing = 0
        self._files = files
        self._fd = -1
        self._index: _Index | None = None
        self._known: set[int] = set()

    @classmethod
    def create(cls, files: Files, path: Path, ordinal: int, header: Header) -> "Segment":
        """Make the file, its header and its name durable. On `OSError` no file is left, if the disk allows that."""
        made = cls(files, path, ordinal, header)
        made._fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_all(files, made._fd, encode_header(header), 0)
            files.fsync(made._fd)
            sync_directory(files, path.parent)
        except OSError:
            made.release()
            with contextlib.suppress(OSError):  # else the next one takes another name, and the next start removes this
                files.unlink(path)
            raise
        made._index = _Index()
        return made

    @classmethod
    def peek(cls, files: Files, path: Path, ordinal: int) -> "Segment | None":
        """Read the header alone; None when it is torn or damaged."""
        fd = files.open(path, os.O_RDONLY)
        try:
            header = decode_header(read_all(files, fd, HEADER_BYTES))
            if header is None:
                return None
            found = cls(files, path, ordinal, header)
            found.end = files.size(fd)
            return found
        finally:
            files.close(fd)

    def recover(self) -> Verdict:
        """Open the last segment for appending: everything whole is kept, the torn tail cut off."""
        self.release()
        self._fd = self._files.open(self.path, os.O_RDWR)
        size = self._files.size(self._fd)
        verdict = self._survey(size, following=None)
        self.end = verdict.end
        last = verdict.frames[-1] if verdict.frames else None
        self.next = last.following if last else self.first
        return verdict

    def cut(self) -> None:
        """Remove what stands behind the durable end, for good."""
        self._files.truncate(self._fd, self.end)
        self._files.fsync(self._fd)

    def write(self, data: bytes) -> None:
        """Make bytes durable behind the end; nothing is visible before `publish`."""
        write_all(self._files, self._fd, data, self.end)
        self._files.fsync(self._fd)

    def append_loosely(self, data: bytes) -> None:
        """Write behind the end without waiting for the disk: for a mark that may be lost."""
        write_all(self._files, self._fd, data, self.end)

    def publish(self, frames: list[Frame]) -> None:
        """Let readers see frames that `write` has made durable."""
        if self._index is not None:
            for frame in frames:
                self._index.add(frame)
        self.end = frames[-1].end
        self.next = frames[-1].following

    def read(self, after: int, limit: int, report: Callable[["Segment", list[Hole], int], None]) -> list[Record]:
        """Return up to `limit` records behind `after`; damage is reported once, then skipped."""
        try:
            return self._read(after, limit, report)
        except Damage:
            self._index = None
            return self._read(after, limit, report)

    def release(self) -> None:
        """Close the file and forget the index; the next read brings both back."""
        self._index = None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._files.close(fd)

    def bytes_at(self, start: int, end: int) -> bytes:
        """Return raw bytes of the file."""
        self._open()
        return read_all(self._files, self._fd, end - start, start)

    def _read(self, after: int, limit: int, report: Callable[["Segment", list[Hole], int], None]) -> list[Record]:
        index = self._index
        if index is None:
            index = self._load(report)
        firsts, starts, ends = index.firsts, index.starts, index.ends
        found: list[Record] = []
        at = max(0, bisect_right(firsts, after + 1) - 1)
        while at < len(firsts) and len(found) < limit:
            base = starts[at]
            stop = max(at + 1, bisect_right(ends, base + _RUN_BYTES))
            data = read_all(self._files, self._fd, ends[stop - 1] - base, base)
            for start in starts[at:stop]:
                frame = frame_at(data, start - base)
                if frame is None:
                    raise Damage
                found += records_of(data, frame, after, limit - len(found))
                if len(found) >= limit:
                    break
            at = stop
        return found

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = self._files.open(self.path, os.O_RDONLY)

    def _load(self, report: Callable[["Segment", list[Hole], int], None]) -> _Index:
        self._open()
        before = self.missing
        verdict = self._survey(self.end, following=self.next)
        fresh = [hole for hole in verdict.damage if hole.start not in self._known]
        if fresh or self.missing > before:
            self._known.update(hole.start for hole in fresh)
            report(self, fresh, self.missing - before)
        assert self._index is not None
        return self._index

    def _survey(self, size: int, *, following: int | None) -> Verdict:
        data = read_all(self._files, self._fd, size)
        verdict = judge(survey(data), len(data), self.first, following)
        self._index = _Index()
        for frame in verdict.frames:
            self._index.add(frame)
        self.missing = max(self.missing, verdict.missing)
        return verdict
