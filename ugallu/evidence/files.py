"""Writing files so that a crash leaves the old one or the new one, whole, and nothing is replaced by mistake."""

import os
import secrets
from pathlib import Path


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file as one step; its directory still needs `sync_directory` for the name to be durable."""
    temporary = _write_aside(path, content, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Create a file, whole and durable, name included; raises `FileExistsError` if the name is taken."""
    temporary = _write_aside(path, content, mode)
    try:
        # Unlike a rename, a link refuses to replace: two writers cannot both believe that they were first.
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


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


def _write_aside(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
            os.fsync(handle)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
