"""Where readers stand, one file each: replaced atomically, checksummed, with the previous one kept behind it."""

import contextlib
import os
import re
import zlib
from pathlib import Path
from typing import Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.journal.files import FULL, Files, read_all, sync_directory, write_all
from ugallu.journal.port import Cursor

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_MAGIC: Final = b"UGCURSR1"
_SUFFIX: Final = ".cursor"


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A cursor as it lies on disk; `lost` counts the unread records that retention has taken from this reader."""

    seq: int
    state: bytes
    lost: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stored)


class CursorFiles:
    """The cursors of one journal."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory

    def names(self) -> list[str]:
        """Return the readers that have ever saved."""
        stems = {name.split(_SUFFIX)[0] for name in self._files.names(self._directory) if _SUFFIX in name}
        return sorted(stem for stem in stems if _NAME.fullmatch(stem))

    def load(self, name: str) -> tuple[Stored | None, bool]:
        """Return the newest whole cursor, None when there is none; and whether a newer one was damaged."""
        damaged = False
        for path in self._paths(name):
            try:
                fd = self._files.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                found = _decode(read_all(self._files, fd, self._files.size(fd)))
            finally:
                self._files.close(fd)
            if found is not None:
                return found, damaged
            damaged = True
            # Out of the way: the next save would move it over the good one.
            self._files.replace(path, path.with_name(f"{path.name}.damaged"))
        return None, damaged

    def save(self, name: str, cursor: Cursor, lost: int) -> None:
        """Replace the cursor. On `OSError` the old one is what the next start finds, as far as the disk allows."""
        current, previous = self._paths(name)
        fresh = current.with_name(f"{current.name}.new")
        data = _encode(Stored(cursor.seq, cursor.state, lost))
        try:
            try:
                self._write(fresh, data)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                # A full disk empties only as cursors get on. The one before the present one has served its time, unless
                # it is the only one: after a save that was taken back.
                if {current.name, previous.name} - {*self._files.names(self._directory)}:
                    raise
                self._files.unlink(previous)
                self._write(fresh, data)
            with contextlib.suppress(FileNotFoundError):
                self._files.replace(current, previous)
            self._files.replace(fresh, current)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(fresh)
            raise
        try:
            sync_directory(self._files, self._directory)
        except OSError:
            # The new name may or may not survive a power cut: take it back, so that it agrees with what we tell.
            with contextlib.suppress(OSError):
                self._files.unlink(current)
            raise

    def _write(self, path: Path, data: bytes) -> None:
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(self._files, fd, data, 0)
            self._files.fsync(fd)
        finally:
            self._files.close(fd)

    def _paths(self, name: str) -> tuple[Path, Path]:
        current = self._directory / (name + _SUFFIX)
        return current, current.with_name(f"{current.name}.previous")


def check_name(name: str) -> None:
    """Raise `PermanentError` for a reader's name that could not be a file's."""
    if not _NAME.fullmatch(name):
        raise PermanentError(f"{name!r} is no name for a reader", where="journal", fix="use a-z, 0-9, '.', '_' and '-'")


def _encode(stored: Stored) -> bytes:
    body = _encoder.encode(stored)
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def _decode(data: bytes) -> Stored | None:
    head = len(_MAGIC) + 4
    if data[: len(_MAGIC)] != _MAGIC or zlib.crc32(data[head:]) != int.from_bytes(data[len(_MAGIC) : head], "little"):
        return None
    try:
        return _decoder.decode(data[head:])
    except (msgspec.DecodeError, RecursionError):
        return None
