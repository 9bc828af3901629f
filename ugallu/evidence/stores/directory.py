"""Evidence in a directory: create-only, durable, digest and retention recorded beside every object.

Nothing but our own code enforces the retention (`Lock.PROCESS`): whoever owns the disk can delete. Layout below the
root: `objects/<key>` is the content, `records/<key>.json` what is recorded of it.
"""

import contextlib
import datetime as dt
import errno
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence.files import create_durably, make_directory, sync_directory, write_durably
from ugallu.evidence.ports import IntegrityError, Lock, Stored

STAGING: Final = "staging/"
MAX_KEY: Final = 512

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

T = TypeVar("T")


class _Record(msgspec.Struct, frozen=True, rename="camel"):
    sha256: str
    size: int
    media_type: str
    until: dt.datetime | None = None


class DirectoryStore:
    """An `EvidenceStore` on a local disk. Any number of calls may be under way at once."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root.absolute()
        self._clock = clock

    @property
    def endpoint(self) -> str:
        """`file:///dir`."""
        return self._root.as_uri()

    @property
    def lock(self) -> Lock:
        """Our own code, nobody else."""
        return Lock.PROCESS

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store once; see `EvidenceStore`. The same content with a later date extends the retention."""
        check_key(key)
        if until is None and not key.startswith(STAGING):
            raise PermanentError("evidence needs a retention date", where=key)
        record = _Record(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), media_type, until)
        return await self._in_thread(lambda: self._put(key, content, record), key)

    async def get(self, key: str) -> bytes:
        """Return the content; `IntegrityError` when it is not what was recorded."""
        check_key(key)
        return await self._in_thread(lambda: self._get(key), key)

    async def stat(self, key: str) -> Stored | None:
        """Return what is recorded of the key, None when there is nothing."""
        check_key(key)
        record = await self._in_thread(lambda: self._record(key), key)
        return None if record is None else self._stored(key, record)

    async def drop(self, key: str) -> None:
        """Remove a key whose retention has ended; a missing one is no error."""
        check_key(key)
        await self._in_thread(lambda: self._drop(key), key)

    def _put(self, key: str, content: bytes, record: _Record) -> Stored:
        path, record_path = self._object(key), self._record_path(key)
        make_directory(path.parent)
        make_directory(record_path.parent)
        if key.startswith(STAGING):
            write_durably(record_path, _encode(record))
            write_durably(path, content)
            sync_directory(path.parent)
            return self._stored(key, record)
        # The record comes first: an object without one would have no retention.
        try:
            create_durably(record_path, _encode(record))
        except FileExistsError:
            record = self._same(key, record)
        with contextlib.suppress(FileExistsError):
            create_durably(path, content)
        return self._stored(key, record)

    def _same(self, key: str, record: _Record) -> _Record:
        """Check that the key already holds this very content, and extend its retention if asked."""
        old = self._record(key)
        if old is None:
            raise TransientError("the record went away while it was read", where=key)
        if (old.sha256, old.size) != (record.sha256, record.size):
            raise IntegrityError("the key already holds other content", where=key, fix="find out who wrote it")
        with contextlib.suppress(FileNotFoundError):
            self._check(key, self._object(key).read_bytes(), old)
        if record.until is None or (old.until is not None and old.until >= record.until):
            return old
        later = msgspec.structs.replace(old, until=record.until)
        write_durably(self._record_path(key), _encode(later))
        sync_directory(self._record_path(key).parent)
        return later

    def _get(self, key: str) -> bytes:
        record = self._record(key)
        try:
            content = self._object(key).read_bytes()
        except FileNotFoundError:
            if record is not None and not key.startswith(STAGING):
                raise IntegrityError("recorded, but its content is gone", where=key) from None
            raise PermanentError("nothing is stored here", where=key) from None
        if record is None:
            raise IntegrityError("stored, but its record is gone", where=key)
        self._check(key, content, record)
        return content

    def _check(self, key: str, content: bytes, record: _Record) -> None:
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != record.sha256:
            raise IntegrityError(
                "the content is not what was recorded",
                where=key,
                fix="keep the disk as it is and find out who changed it",
            )

    def _drop(self, key: str) -> None:
        record = self._record(key)
        if record is not None and record.until is not None and record.until > self._clock.now():
            raise RefusedError(f"kept until {record.until.isoformat()}", where=key)
        self._object(key).unlink(missing_ok=True)
        self._record_path(key).unlink(missing_ok=True)

    def _record(self, key: str) -> _Record | None:
        try:
            return msgspec.json.decode(self._record_path(key).read_bytes(), type=_Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise IntegrityError("the record cannot be read", where=key) from error

    def _stored(self, key: str, record: _Record) -> Stored:
        return Stored(
            url=self._object(key).as_uri(),
            sha256=record.sha256,
            size=record.size,
            media_type=record.media_type,
            until=record.until,
            lock=self.lock,
        )

    def _object(self, key: str) -> Path:
        return self._root / "objects" / key

    def _record_path(self, key: str) -> Path:
        return self._root / "records" / f"{key}.json"

    async def _in_thread(self, work: Callable[[], T], key: str) -> T:
        try:
            return await to_thread.run_sync(work)
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise RefusedError(str(error.strerror), where=f"{self.endpoint}/{key}", fix="check its owner") from error
        except OSError as error:
            fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the disk"
            raise TransientError(str(error.strerror), where=f"{self.endpoint}/{key}", fix=fix) from error


def check_key(key: str) -> None:
    """Raise `PermanentError` unless the key is a relative path of plain segments: none empty, hidden or `..`."""
    if len(key) > MAX_KEY or not key or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise PermanentError(f"{key[:80]!r} is no safe key", where="evidence store")


def _encode(record: _Record) -> bytes:
    return msgspec.json.encode(record)
