"""A disk that fails where a test wants it to: the journal's `Files` with a plan."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from ugallu.journal.files import Space, SystemFiles

SHORT = -1
"""A verdict for `pwrite`: write half, and say so."""

Plan = Callable[[str, Path], int]
"""From the name of an operation and the path it works on to an errno, `SHORT`, or 0 for success."""


def healthy(operation: str, path: Path) -> int:  # noqa: ARG001 - the shape of a plan
    """Fail nothing."""
    return 0


def broken(operation: str, number: int, *, name: str = "") -> Plan:
    """Fail every call of one operation on paths that contain `name`."""

    def plan(called: str, path: Path) -> int:
        return number if called == operation and name in str(path) else 0

    return plan


def flaky(chance: random.Random, share: float) -> Plan:
    """Fail a share of all writing operations, at random, in the ways that disks do."""

    def plan(operation: str, path: Path) -> int:
        if operation not in _FAILURES or chance.random() >= share or path.name == "lock":
            return 0
        return chance.choice(_FAILURES[operation])

    return plan


_FAILURES = {
    "open": (errno.ENOSPC, errno.EIO),
    "pwrite": (errno.ENOSPC, errno.EIO, SHORT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "truncate": (errno.EIO,),
    "replace": (errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO,),
}


class FaultyFiles(SystemFiles):
    """The operating system's files, asked through `plan` first; a failing call has no effect, a failing fsync has."""

    def __init__(self, plan: Plan = healthy) -> None:
        self.plan = plan
        self.calls: list[tuple[str, Path]] = []
        self._paths: dict[int, Path] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Ask, then open."""
        self._ask("open", path)
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        """Close, always."""
        self._paths.pop(fd, None)
        super().close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Ask, then read."""
        self._ask("pread", self._paths[fd])
        return super().pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Ask, then write, perhaps half of it."""
        if self._ask("pwrite", self._paths[fd]) == SHORT:
            return super().pwrite(fd, memoryview(data)[: max(1, len(data) // 2)], offset)
        return super().pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Ask, then truncate."""
        self._ask("truncate", self._paths[fd])
        super().truncate(fd, size)

    def fsync(self, fd: int) -> None:
        """Ask, then synchronise."""
        self._ask("fsync", self._paths[fd])
        super().fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Ask, then rename."""
        self._ask("replace", source)
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        """Ask, then remove."""
        self._ask("unlink", path)
        super().unlink(path)

    def _ask(self, operation: str, path: Path) -> int:
        self.calls.append((operation, path))
        verdict = self.plan(operation, path)
        if verdict > 0:
            raise OSError(verdict, os.strerror(verdict), str(path))
        return verdict


class SmallDisk(SystemFiles):
    """A disk of `size` bytes, everything under `root`: full it is full, whoever has filled it."""

    def __init__(self, root: Path, size: int) -> None:
        self._size = size
        self._root = root

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write as much as there is room for; raises `OSError` ENOSPC where there is none."""
        room = self.space(self._root).free + max(0, os.fstat(fd).st_size - offset)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(fd, memoryview(data)[:room], offset)

    def space(self, path: Path) -> Space:  # noqa: ARG002 - there is one disk
        """Return what the files leave."""
        used = sum(file.stat().st_size for file in self._root.rglob("*") if file.is_file())
        return Space(max(0, self._size - used), self._size)
