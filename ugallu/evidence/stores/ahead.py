"""A write-ahead file: what it holds is durable after one sync, however many files it will become.

A frame is its length (4 bytes, big-endian), the SHA-256 of its content, and the content. Reading ends at the first
frame that is empty, cut or garbled: it was never acknowledged.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ugallu.errors import RefusedError
from ugallu.evidence.files import sync_directory

_HEAD: Final = 4 + 32
MAX_FRAME: Final = 1 << 30
ROOM: Final = 1 << 20
"""Bytes that the file grows by, ahead of what is written."""


class WriteAhead:
    """One process at a time; raises `OSError` when the disk refuses, and then has appended nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RefusedError(
                    "another process writes to this store", where=str(path), fix="stop it first"
                ) from error
            self._handle = _open(path)
            undo.callback(os.close, self._handle)
            sync_directory(path.parent)
            undo.pop_all()
        self.size = 0
        self._room = 0
        """Size of the file: behind `size` there are zeros."""
        self._torn = True
        self._named = True
        """Whether the file's name is durable, without which its content is not."""

    def read(self) -> Iterator[bytes]:
        """Yield the frames in order; afterwards `append` goes on behind the last good one."""
        yield from _frames_in(old_of(self._path))
        self.size = 0
        for content in _frames(self._handle):
            self.size += _HEAD + len(content)
            yield content

    def append(self, frames: Iterable[bytes], *, sync: bool = True) -> None:
        """Append, and make durable unless told that it does not matter."""
        content = b"".join(len(frame).to_bytes(4) + hashlib.sha256(frame).digest() + frame for frame in frames)
        if self._torn:
            # What a failed append left is cut off: behind a shorter one, whole frames of it would come back to life.
            os.ftruncate(self._handle, self.size)
            self._room = self.size
        self._torn = True
        at = self.size + len(content)
        if at > self._room:
            self._make_room(at)
        _write_at(self._handle, content, self.size)
        if sync:
            os.fdatasync(self._handle)
            self._name()
        self.size = at
        self._torn = False

    def _make_room(self, at: int) -> None:
        """Write zeros ahead, if there is space: syncing what a file has blocks for takes a tenth of the time."""
        with contextlib.suppress(OSError):
            _write_at(self._handle, bytes(ROOM), at)
            self._room = at + ROOM

    def rotate(self, keep: Sequence[bytes] = ()) -> None:
        """Begin a new file with these frames; the old one stays beside it until `forget`, and is read first.

        A crash in between leaves the old frames in full: no file is ever edited.
        """
        aside = self._path.with_name(f"{self._path.name}.new")
        fresh = _open(aside)
        os.ftruncate(fresh, 0)
        old = (self._handle, self.size, self._room, self._torn)
        self._handle, self.size, self._room, self._torn = fresh, 0, 0, False
        try:
            self.append(keep)
            # A second name, not a move: whatever fails from here, the frames keep one.
            old_of(self._path).unlink(missing_ok=True)
            os.link(self._path, old_of(self._path))
            aside.replace(self._path)
        except OSError:
            os.close(fresh)
            self._handle, self.size, self._room, self._torn = old
            raise
        os.close(old[0])
        self._named = False
        self._name()

    def forget(self) -> None:
        """Let the old file go: everything in it is durable elsewhere, or in the new one."""
        old_of(self._path).unlink(missing_ok=True)

    def _name(self) -> None:
        if not self._named:
            sync_directory(self._path.parent)
            self._named = True

    def close(self) -> None:
        """Let another process write."""
        os.close(self._handle)
        os.close(self._lock)


def _write_at(handle: int, content: bytes, at: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(handle, rest, at)
        at, rest = at + written, rest[written:]


def old_of(path: Path) -> Path:
    """Return where the file lies that this one has taken over from."""
    return path.with_name(f"{path.name}.old")


def frames_of(path: Path) -> Iterator[bytes]:
    """Yield all frames of somebody who may be writing right now."""
    yield from _frames_in(old_of(path))
    yield from _frames_in(path)


def _frames_in(path: Path) -> Iterator[bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        yield from _frames(handle)
    finally:
        os.close(handle)


def _frames(handle: int) -> Iterator[bytes]:
    at = 0
    while True:
        head = os.pread(handle, _HEAD, at)
        length = int.from_bytes(head[:4])
        if len(head) < _HEAD or not 0 < length <= MAX_FRAME:
            return
        content = os.pread(handle, length, at + _HEAD)
        if len(content) != length or hashlib.sha256(content).digest() != head[4:]:
            return
        at += _HEAD + length
        yield content


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
