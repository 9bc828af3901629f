"""Writing files so that a crash leaves the old one or the new one, whole, and nothing is replaced by mistake."""

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TOGETHER: Final = 128
"""Files that are open at the same time while they are synced."""


class Aside:
    """Content written beside its place under a passing name, until it is named or discarded."""

    def __init__(self, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")
        self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            _write_all(self._handle, content)
        except OSError:
            self.discard()
            raise

    @property
    def place(self) -> Path:
        """Where the content lies until then."""
        return self._temporary

    def sync(self) -> None:
        """Make the content durable."""
        os.fsync(self._handle)

    def replace(self) -> None:
        """Take the place of whatever has the name; the name is durable once its directory was synced."""
        self._temporary.replace(self._path)

    def create(self) -> None:
        """Take the name; raises `FileExistsError` if it is taken.

        Unlike a rename, a link refuses to replace: two writers cannot both believe that they were first.
        """
        os.link(self._temporary, self._path)

    def discard(self) -> None:
        """Remove what was not named, and let go; any number of times."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._temporary.unlink(missing_ok=True)


def create_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Create a file, whole or not at all unless the process dies; not durable yet.

    Raises `FileExistsError` if the name is taken.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_all(handle, content)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file as one step; its directory still needs `sync_directory` for the name to be durable."""
    aside = Aside(path, content, mode=mode)
    try:
        aside.sync()
        aside.replace()
    finally:
        aside.discard()


def create_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Create a file, whole and durable, name included; raises `FileExistsError` if the name is taken."""
    aside = Aside(path, content, mode=mode)
    try:
        aside.sync()
        aside.create()
    finally:
        aside.discard()
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(paths: Sequence[Path]) -> None:
    """Make the content of many files durable, and the names in those that are directories.

    All are begun before the first is waited for: a file system then has room for them at once, and commits once.
    """
    for first in range(0, len(paths), TOGETHER):
        with contextlib.ExitStack() as opened:
            handles = []
            for path in paths[first : first + TOGETHER]:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, handle)
                handles.append(handle)
                # Begins to write, and waits for nothing; that it also lets go of the pages is no loss.
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            for handle in handles:
                os.fsync(handle)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """Create a directory and its parents, durably."""
    if path.is_dir():
        return
    make_directory(path.parent, mode=mode)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def remove_strays(folder: Path) -> None:
    """Remove what a process that died was writing aside; only for one who knows that nobody else is writing here."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        # A full disk first writes less, and says so only when asked for the rest.
        view = view[os.write(handle, view) :]
