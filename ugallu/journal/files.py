"""`Files`: the few operating-system calls the journal makes, as an argument, so that a test can make each one fail."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, NamedTuple, Protocol

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a disk without room."""


class Space(NamedTuple):
    """A file system in bytes: what an ordinary user may still write, and all of it."""

    free: int
    total: int


class Files(Protocol):
    """The calls of `os` that the journal uses; each may raise `OSError`."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """As `os.open`."""
        ...

    def close(self, fd: int) -> None:
        """As `os.close`."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """As `os.pread`: may return less, and nothing at the end."""
        ...

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """As `os.pwrite`: may write less than asked."""
        ...

    def size(self, fd: int) -> int:
        """Return the length of the file in bytes."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """As `os.ftruncate`."""
        ...

    def fsync(self, fd: int) -> None:
        """As `os.fsync`; on a directory it makes names durable."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """As `os.replace`."""
        ...

    def unlink(self, path: Path) -> None:
        """As `os.unlink`."""
        ...

    def mkdir(self, path: Path) -> None:
        """Make a directory for this user alone; parents are made, an existing one is fine."""
        ...

    def names(self, path: Path) -> list[str]:
        """As `os.listdir`."""
        ...

    def lock(self, fd: int) -> None:
        """Take an exclusive `flock` without waiting; `BlockingIOError` when another process has it."""
        ...

    def space(self, path: Path) -> Space:
        """Return how much room there is where a path lies."""
        ...


class SystemFiles:
    """The operating system itself."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """As `os.open`, not inherited by children."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """As `os.close`."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """As `os.pread`."""
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """As `os.pwrite`."""
        return os.pwrite(fd, data, offset)

    def size(self, fd: int) -> int:
        """As `os.fstat(fd).st_size`."""
        return os.fstat(fd).st_size

    def truncate(self, fd: int, size: int) -> None:
        """As `os.ftruncate`."""
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        """As `os.fsync`."""
        os.fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """As `os.replace`."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """As `os.unlink`."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """As `Path.mkdir` with mode 0700."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        """As `os.listdir`."""
        return [entry.name for entry in path.iterdir()]

    def lock(self, fd: int) -> None:
        """As `fcntl.flock` with `LOCK_EX | LOCK_NB`."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def space(self, path: Path) -> Space:
        """As `os.statvfs`."""
        found = os.statvfs(path)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def read_all(files: Files, fd: int, size: int, offset: int = 0) -> bytes:
    """Return `size` bytes from `offset`, fewer only at the end of the file."""
    first = files.pread(fd, size, offset)
    if len(first) == size or not first:
        return first
    parts = [first]
    have = len(first)
    while have < size:
        part = files.pread(fd, size - have, offset + have)
        if not part:
            break
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def write_all(files: Files, fd: int, data: bytes, offset: int) -> None:
    """Write everything or raise; a call that writes nothing counts as a full disk."""
    done = 0
    view = memoryview(data)
    while done < len(data):
        count = files.pwrite(fd, view[done:], offset + done)
        if count <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def sync_directory(files: Files, path: Path) -> None:
    """Make the names in a directory durable."""
    fd = files.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)
