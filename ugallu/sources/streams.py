"""Bytes that are looked at before they are consumed: plain files in place, compressed ones and pipes buffered."""

import os
import stat
import zlib
from pathlib import Path
from typing import Protocol

from ugallu.errors import PermanentError

PREFIX_BYTES = 4096
"""The first bytes of a log tell it from every other one: they hold audit ids and times."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_RAW_BYTES = 64 << 10
_ZSTD_STEP_BYTES = 512


class Stream(Protocol):
    """Bytes from a position on."""

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes from the position, fewer only at the present end; consume nothing."""
        ...

    def advance(self, size: int) -> None:
        """Consume bytes that `peek` has shown."""
        ...

    @property
    def behind(self) -> int:
        """How many bytes on disk are not yet read, as far as one can know."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


class PlainFile:
    """A regular file read in place, so that a line that is not yet whole is simply read again."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._position = 0

    @classmethod
    def open(cls, path: Path) -> "PlainFile":
        """Open a log. Raises `FileNotFoundError`, and `PermanentError` for what cannot be read."""
        fd = _open(path)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return cls(fd)
        os.close(fd)
        raise PermanentError("is no regular file", where=str(path), fix="name the log file itself")

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes from the position."""
        return os.pread(self.fd, size, self._position)

    def advance(self, size: int) -> None:
        """Move the position."""
        self._position += size

    def head(self, size: int) -> bytes:
        """Return the first bytes of the file, wherever the position is."""
        return os.pread(self.fd, size, 0)

    def last_newline(self) -> int:
        """Return where the last newline is, -1 when there is none."""
        end = self.status().st_size
        while end > 0:
            start = max(0, end - _RAW_BYTES)
            found = os.pread(self.fd, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found
            end = start
        return -1

    @property
    def position(self) -> int:
        """Where the next `peek` begins."""
        return self._position

    def status(self) -> os.stat_result:
        """Return the file's status through the open handle."""
        return os.fstat(self.fd)

    @property
    def behind(self) -> int:
        """Bytes from the position to the end."""
        return max(0, self.status().st_size - self._position)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class _Inflater(Protocol):
    """What turns compressed bytes into plain ones, bounded in what one call returns."""

    def feed(self, data: bytes, limit: int) -> bytes: ...

    @property
    def hungry(self) -> bool:
        """More input is needed before more output can come."""
        ...

    @property
    def whole(self) -> bool:
        """The input may end here."""
        ...


class _Copy:
    hungry = True
    whole = True

    def feed(self, data: bytes, limit: int) -> bytes:  # noqa: ARG002 - nothing grows
        return data


class _Gunzip:
    """Gzip, several members a file."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""
        self.whole = True

    @property
    def hungry(self) -> bool:
        return not self._rest

    def feed(self, data: bytes, limit: int) -> bytes:
        source = self._rest + data if self._rest else data
        if self._inflate.eof:
            source = source.lstrip(b"\0")  # padding between members, as gzip itself allows
            if not source:
                self._rest = b""
                return b""
            self._inflate = zlib.decompressobj(wbits=31)
        out = self._inflate.decompress(source, limit)
        self._rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        self.whole = self._inflate.eof and not self._rest
        return out


class _Unzstd:
    """Zstandard, several frames a file. Input goes in by small steps, which bounds what one of them brings out."""

    def __init__(self) -> None:
        import zstandard  # a role that reads no .zst does not pay for it

        # 128 MiB: what `zstd --long` writes; a larger window is refused instead of allocated.
        self._context = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._error = zstandard.ZstdError
        self._inflate = self._context.decompressobj()
        self._input = memoryview(b"")
        self.whole = True

    @property
    def hungry(self) -> bool:
        return not self._input

    def feed(self, data: bytes, limit: int) -> bytes:  # noqa: ARG002 - bounded by the size of a step
        if data:
            self._input = memoryview(data)
        step, self._input = self._input[:_ZSTD_STEP_BYTES], self._input[_ZSTD_STEP_BYTES:]
        if self._inflate.eof:
            self._inflate = self._context.decompressobj()
        try:
            out = self._inflate.decompress(step)
        except self._error as error:
            raise zlib.error(str(error)) from error
        self.whole = self._inflate.eof
        if self._inflate.eof and self._inflate.unused_data:
            self._input = memoryview(self._inflate.unused_data + bytes(self._input))
            self.whole = False
        return out


class BufferedFile:
    """A compressed file or a pipe; the kind is told by its first bytes, never by its name."""

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        mode = os.fstat(fd).st_mode
        self.fd = fd
        self.damage = ""
        """Why the compressed data ended early, empty while it has not."""
        self.piped = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        self._arrived = b""
        self._owned = owned
        self._buffer = b""
        self._raw_end = False
        self._first = b""
        self._inflate: _Inflater | None = None

    @property
    def ended(self) -> bool:
        """Nothing will come but what `peek` shows; only a pipe that is still open has more."""
        return not self.piped or self._raw_end

    def pull(self) -> None:
        """Take from a pipe what it has; blocks when that is nothing."""
        raw = os.read(self.fd, _RAW_BYTES)
        self._raw_end = not raw
        self._arrived += raw

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes; of a pipe, only what was pulled."""
        if len(self._buffer) < size:
            parts = [self._buffer]
            have = len(self._buffer)
            while have < size:
                part = self._fill(size - have)
                if part is None:
                    break
                parts.append(part)
                have += len(part)
            self._buffer = b"".join(parts)
        return self._buffer if len(self._buffer) <= size else self._buffer[:size]

    def advance(self, size: int) -> None:
        """Drop the first bytes of the buffer."""
        self._buffer = self._buffer[size:]

    @property
    def behind(self) -> int:
        """Compressed bytes not yet read; 0 for a pipe."""
        try:
            return max(0, os.fstat(self.fd).st_size - os.lseek(self.fd, 0, os.SEEK_CUR))
        except OSError:
            return 0

    def close(self) -> None:
        """Close the file, but not a standard input that belongs to the process."""
        if self._owned:
            os.close(self.fd)

    def _fill(self, limit: int) -> bytes | None:
        if self.damage:
            return None
        try:
            return self._next(limit)
        except zlib.error as error:
            self.damage = str(error)
            return None

    def _next(self, limit: int) -> bytes | None:
        inflate = self._inflate
        if inflate is not None and not inflate.hungry:
            return inflate.feed(b"", limit)
        raw = self._raw()
        if raw is None:
            return None
        if not raw:
            if inflate is None and self._first:
                first, self._first = self._first, b""
                self._inflate = _Copy()
                return first
            if inflate is not None and not inflate.whole:
                self.damage = "the compressed data ends early"
            return None
        if inflate is None:
            raw = self._first + raw
            if len(raw) < len(_ZSTD):
                self._first = raw
                return b""
            self._first = b""
            inflate = self._inflate = _inflater(raw)
        return inflate.feed(raw, limit)

    def _raw(self) -> bytes | None:
        """Return raw bytes, empty at the end, None when a pipe must be pulled first."""
        if self._arrived:
            raw, self._arrived = self._arrived, b""
            return raw
        if self._raw_end:
            return b""
        if self.piped:
            return None
        raw = os.read(self.fd, _RAW_BYTES)
        self._raw_end = not raw
        return raw


def _inflater(first: bytes) -> _Inflater:
    if first.startswith(_GZIP):
        return _Gunzip()
    return _Unzstd() if first.startswith(_ZSTD) else _Copy()


def open_stream(path: Path) -> PlainFile | BufferedFile:
    """Open a log file or pipe. Raises `FileNotFoundError`, and `PermanentError` for what cannot be read."""
    fd = _open(path)
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        os.close(fd)
        raise PermanentError("is a directory", where=str(path), fix="name the log file itself")
    if stat.S_ISREG(mode) and not os.pread(fd, len(_ZSTD), 0).startswith((_GZIP, _ZSTD)):
        return PlainFile(fd)
    return BufferedFile(fd)


def prefix_of(path: Path, size: int) -> bytes:
    """Return the first `size` plain bytes of a log; fewer when it is shorter, none when it cannot be read."""
    try:
        stream = open_stream(path)
    except (OSError, PermanentError):
        return b""
    try:
        return stream.peek(size)
    finally:
        stream.close()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermanentError(
            "no right to read the audit log", where=str(path), fix="run as its owner, or grant this user an ACL on it"
        ) from error
