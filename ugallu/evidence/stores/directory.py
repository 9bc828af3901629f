"""Evidence in a directory: create-only, durable, digest and retention recorded beside every object.

Nothing but our own code enforces the retention (`Lock.PROCESS`): whoever owns the disk can delete. Layout below the
root: `objects/<key>` is the content, `records/<key>.json` what is recorded of it.
"""

import datetime as dt
import errno
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import anyio
import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.files import Aside, make_directory, sync_directory, write_durably
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


class _Put:
    """One put under way, and what came of it."""

    __slots__ = ("content", "error", "files", "key", "record", "stored")

    def __init__(self, key: str, content: bytes, record: _Record) -> None:
        self.key = key
        self.content = content
        self.record = record
        self.files: list[tuple[Aside, Path]] = []
        self.stored: Stored | None = None
        self.error: OSError | UgalluError | None = None

    @property
    def is_staging(self) -> bool:
        return self.key.startswith(STAGING)

    @property
    def over(self) -> bool:
        return self.stored is not None or self.error is not None


class DirectoryStore:
    """An `EvidenceStore` on a local disk. Puts that come while others are under way share their syncs."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root.absolute()
        self._clock = clock
        self._turn = anyio.Lock()
        self._puts: list[_Put] = []

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
        mine = _Put(key, content, _Record(_sha256(content), len(content), media_type, until))
        self._puts.append(mine)
        async with self._turn:
            if not mine.over:
                puts, self._puts = self._puts, []
                await to_thread.run_sync(self._put_all, puts)
        if isinstance(mine.error, OSError):
            raise self._translated(mine.error, key) from mine.error
        if mine.error is not None:
            raise mine.error
        assert mine.stored is not None
        return mine.stored

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

    def _put_all(self, puts: Sequence[_Put]) -> None:
        """Write all aside, sync all, name all, sync the directories: each put ends with its own outcome.

        A crash may leave one of the two files of a put; the put that comes again finds it and adds the other.
        """
        synced: set[Path] = set()

        def sync_names(put: _Put) -> None:
            for _, path in put.files:
                if path.parent not in synced:
                    sync_directory(path.parent)
                    synced.add(path.parent)

        for step in (self._write, _sync, self._name, sync_names):
            for put in puts:
                if put.error is None:
                    try:
                        step(put)
                    except (OSError, UgalluError) as error:
                        put.error = error
        for put in puts:
            for aside, _ in put.files:
                aside.discard()
            if put.error is None:
                put.stored = self._stored(put.key, put.record)

    def _write(self, put: _Put) -> None:
        for path, content in ((self._record_path(put.key), _encode(put.record)), (self._object(put.key), put.content)):
            make_directory(path.parent)
            put.files.append((Aside(path, content), path))

    def _name(self, put: _Put) -> None:
        (record, _), (content, path) = put.files
        if put.is_staging:
            record.replace()
            content.replace()
            return
        try:
            record.create()
        except FileExistsError:
            put.record = self._same(put.key, put.record)
        try:
            content.create()
        except FileExistsError:
            self._check(put.key, path.read_bytes(), put.record)

    def _same(self, key: str, record: _Record) -> _Record:
        """Check that the key already holds this very content, and extend its retention if asked."""
        old = self._record(key)
        if old is None:
            raise TransientError("the record went away while it was read", where=key)
        if (old.sha256, old.size) != (record.sha256, record.size):
            raise IntegrityError("the key already holds other content", where=key, fix="find out who wrote it")
        if record.until is None or (old.until is not None and old.until >= record.until):
            return old
        later = msgspec.structs.replace(old, until=record.until)
        write_durably(self._record_path(key), _encode(later))
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
        if _sha256(content) != record.sha256:
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
        except OSError as error:
            raise self._translated(error, key) from error

    def _translated(self, error: OSError, key: str) -> UgalluError:
        where = f"{self.endpoint}/{key}"
        if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
            return RefusedError(str(error.strerror), where=where, fix="check its owner")
        fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the disk"
        return TransientError(str(error.strerror), where=where, fix=fix)


def check_key(key: str) -> None:
    """Raise `PermanentError` unless the key is a relative path of plain segments: none empty, hidden or `..`."""
    if len(key) > MAX_KEY or not key or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise PermanentError(f"{key[:80]!r} is no safe key", where="evidence store")


def _sync(put: _Put) -> None:
    for aside, _ in put.files:
        aside.sync()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _encode(record: _Record) -> bytes:
    return msgspec.json.encode(record)
