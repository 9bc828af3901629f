"""One writer a directory: a lock that the kernel drops when its holder dies, and a word about who holds it."""

import fcntl
import os
import sys
from pathlib import Path

from ugallu.errors import PermanentError


class Hold:
    """The lock on a state directory, held until released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process in; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(path: Path) -> Hold:
    """Take the lock file at `path`, or raise `PermanentError` that says who has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise PermanentError(
            f"in use by {holder}", where=str(path.parent), fix="stop it, or choose another --state"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} ({Path(sys.argv[0]).name})\n".encode(), 0)
    return Hold(descriptor)
