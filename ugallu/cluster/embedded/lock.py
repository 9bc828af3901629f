"""One writer a directory: a lock that the kernel drops when its holder dies, and a word about who holds it."""

import fcntl
import os
import sys
from pathlib import Path
from typing import Final

from ugallu.errors import PermanentError

FILE: Final = "cluster.lock"


class Hold:
    """The lock on a state directory, held until released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process in; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(directory: Path) -> Hold:
    """Take the lock of a state directory, or raise `PermanentError` that says who has it."""
    descriptor = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise PermanentError(
            f"in use by {holder}", where=str(directory), fix="stop it, or choose another --state"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} ({Path(sys.argv[0]).name})\n".encode(), 0)
    return Hold(descriptor)


def held_by(directory: Path) -> str:
    """Return who writes to a state directory now; empty when nobody does."""
    try:
        descriptor = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return ""


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
