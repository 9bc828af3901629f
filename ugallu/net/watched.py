"""`Watched`: a file of ours that somebody else replaces while we run (a mounted Secret, a renewed certificate)."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from ugallu.errors import PermanentError

_LARGEST: Final = 1 << 20


class _Stamp(NamedTuple):
    """What differs once a file was written anew or another took its place; mounted Secrets swap a link."""

    device: int
    inode: int
    size: int
    modified: int


class Watched:
    """Files that are read together, and read again together once one of them has changed."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._known: list[_Stamp | None] = []

    def changed(self) -> bool:
        """Tell whether any file is another one than `read` has found."""
        return self._stamps() != self._known

    def read(self) -> list[bytes]:
        """Return the files' contents, in order; raises `PermanentError` for one that cannot be read.

        What is refused counts as known: it is looked at again once it changes.
        """
        # Before the contents: a change in between is then seen at the next look.
        self._known = self._stamps()
        return [_content(path) for path in self.paths]

    def _stamps(self) -> list[_Stamp | None]:
        return [_stamp(path) for path in self.paths]


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - called every few seconds
    except OSError:
        return None
    return _Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise PermanentError("no such file", where=str(path), fix="create it, or name another one") from error
    except OSError as error:
        fix = "let this user read it" if isinstance(error, PermissionError) else "name a readable file"
        raise PermanentError(f"cannot be read: {error.strerror or error}", where=str(path), fix=fix) from error
    if len(data) > _LARGEST:
        raise PermanentError(f"is larger than {_LARGEST} bytes", where=str(path), fix="name the right file")
    return data
