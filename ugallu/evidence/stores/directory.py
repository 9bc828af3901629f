"""Evidence in a directory: create-only, durable, digest and retention recorded beside every object.

Nothing but our own code enforces the retention (`Lock.PROCESS`): whoever owns the disk can delete. Layout below the
root: `objects/<key>` is the content, `records/<key>.json` what is recorded of it, `ahead` what was acknowledged and may
not have reached its own files yet. One sync of that file makes a whole batch durable; the files follow at leisure,
which costs little once the kernel has written them by itself. What is staged stays in `ahead` and in memory alone.
"""

import contextlib
import datetime as dt
import errno
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.files import TOGETHER, create_whole, make_directory, sync_directory, sync_files, write_durably
from ugallu.evidence.ports import ElsewhereError, IntegrityError, Lock, Stored
from ugallu.evidence.stores.ahead import WriteAhead, frames_of
from ugallu.evidence.stores.parts import from_url, split

STAGING: Final = "staging/"
MAX_KEY: Final = 512
SETTLE_BYTES: Final = 64 << 20
"""Size of the write-ahead file at which a new one begins, and the files behind the old one are synced by and by."""

SMALL: Final = 64 << 10
"""Bytes that are read without a thread where they are in memory."""

_ASK: Final = "keep the disk as it is and find out who changed it"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

T = TypeVar("T")


class _Record(msgspec.Struct, frozen=True, rename="camel"):
    sha256: str
    size: int
    media_type: str
    until: dt.datetime | None = None
    held: bool = False


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    """What the write-ahead file says of a key; without a record: dropped."""

    key: str
    content: bytes = b""
    record: _Record | None = None


class _Put:
    """One put under way, and what came of it."""

    __slots__ = ("content", "error", "key", "record", "stored")

    def __init__(self, key: str, content: bytes, record: _Record) -> None:
        self.key = key
        self.content = content
        self.record = record
        self.stored: Stored | None = None
        self.error: OSError | UgalluError | None = None

    @property
    def over(self) -> bool:
        return self.stored is not None or self.error is not None


class _Get:
    """One get under way, and what came of it."""

    __slots__ = ("error", "found", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.found: tuple[Stored, bytes] | None = None
        self.error: OSError | UgalluError | None = None

    @property
    def over(self) -> bool:
        return self.found is not None or self.error is not None


class DirectoryStore:
    """An `EvidenceStore` on a local disk: any number of readers, one process that writes."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root.absolute()
        self._objects_uri = (self._root / "objects").as_uri()
        self._clock = clock
        self._turn = anyio.Lock()
        self._puts: list[_Put] = []
        self._read_turn = anyio.Lock()
        self._gets: list[_Get] = []
        self._ahead: WriteAhead | None = None
        self._unsynced: dict[Path, int] = {}
        """Files written and not synced yet, each with its size."""
        self._aging: dict[Path, int] = {}
        """Files behind the old write-ahead file that are to be synced, oldest first."""
        self._due = 0
        """How many of them by now."""
        self._directories: dict[Path, None] = {}
        self._doubtful = False
        """A sync failed: the kernel may have dropped what it could not write, and calls it clean from then on."""
        self._staging: dict[str, _Frame] = {}

    def open(self) -> None:
        """Become the one that writes, and complete what a crash cut short; the first `put` does it otherwise.

        Raises `RefusedError` when another process writes, `TransientError` when the disk refuses.
        """
        if self._ahead is None:
            try:
                self._ahead = self._recover()
            except OSError as error:
                raise self._translated(error, "ahead") from error

    def close(self) -> None:
        """Bring every file to the disk and let another process write."""
        if self._ahead is not None:
            try:
                self._settle(self._ahead)
            except OSError as error:
                raise self._translated(error, "ahead") from error
            finally:
                self._ahead.close()
                self._ahead = None

    @property
    def endpoint(self) -> str:
        """`file:///dir`."""
        return self._root.as_uri()

    @property
    def lock(self) -> Lock:
        """Our own code, nobody else."""
        return Lock.PROCESS

    def key(self, url: str) -> str:
        """Return the key behind a URL of this store, which may have been moved since."""
        whole, part = from_url(url)
        scheme, _, path = whole.partition("://")
        _, objects, key = unquote(path).partition("/objects/")
        if scheme != "file" or not objects:
            raise ElsewhereError("not the URL of something in a directory store", where=url[:200])
        check_key(key)
        return key + part

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
        return (await self.read(key))[1]

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Return what is recorded, and the content; see `EvidenceStore`. Concurrent reads share a thread."""
        key, part = split(key)
        check_key(key)
        mine = _Get(key)
        if self._unsynced.get(self._object(key), SMALL + 1) <= SMALL:
            # Written a moment ago, so the kernel has it in memory: reading it takes less than a change of threads.
            await anyio.lowlevel.checkpoint()
            self._get_all([mine])
        else:
            self._gets.append(mine)
            async with self._read_turn:
                if not mine.over:
                    gets, self._gets = self._gets, []
                    await to_thread.run_sync(self._get_all, gets)
        if isinstance(mine.error, OSError):
            raise self._translated(mine.error, key) from mine.error
        if mine.error is not None:
            raise mine.error
        assert mine.found is not None
        return mine.found if part is None else part.of(*mine.found)

    async def stat(self, key: str) -> Stored | None:
        """Return what is recorded of the key, None when there is nothing."""
        whole, part = split(key)
        check_key(whole)
        if part is not None:
            return None if await self.stat(whole) is None else (await self.read(key))[0]
        record = await self._in_thread(lambda: self._recorded(key), key)
        return None if record is None else self._stored(key, record)

    async def used(self) -> int:
        """Return how full the disk is, in percent, as far as we may fill it."""
        found = await self._in_thread(lambda: os.statvfs(self._root), "")
        return round(100 * (1 - found.f_bavail / max(1, found.f_blocks)))

    async def extend(self, key: str, until: dt.datetime) -> Stored:
        """Keep a key longer; see `EvidenceStore`."""
        return await self._amend(key, lambda record: _until(record, until))

    async def hold(self, key: str, *, on: bool) -> Stored:
        """Put a key under legal hold, or lift it; see `EvidenceStore`."""
        return await self._amend(key, lambda record: msgspec.structs.replace(record, held=on))

    async def drop(self, key: str) -> None:
        """Remove a key whose retention has ended; a missing one is no error."""
        check_key(key)
        async with self._turn:
            if key in self._staging:
                # One write to memory that the kernel keeps: less than a change of threads would cost.
                try:
                    self._drop(key)
                except OSError as error:
                    raise self._translated(error, key) from error
            else:
                await self._in_thread(lambda: self._drop(key), key)

    def _put_all(self, puts: Sequence[_Put]) -> None:
        """Put all with one sync; each ends with its own outcome."""
        fresh: list[_Put] = []
        for put in puts:
            try:
                if self._is_new(put):
                    fresh.append(put)
            except (OSError, UgalluError) as error:
                put.error = error
        try:
            self.open()
            assert self._ahead is not None
            if fresh:
                self._ahead.append(msgspec.msgpack.encode(_Frame(put.key, put.content, put.record)) for put in fresh)
        except (OSError, UgalluError) as error:
            for put in fresh:
                put.error = error
            return
        for put in fresh:
            try:
                self._place(put.key, put.content, put.record)
                put.stored = self._stored(put.key, put.record)
            except (OSError, UgalluError) as error:
                put.error = error
        # The write-ahead file holds the content until its files are durable: failing to sync them loses nothing.
        with contextlib.suppress(OSError):
            if self._aging:
                # A little faster than files are added, so that nobody ever waits for thousands at once.
                self._due += 3 * len(fresh)
            if self._aging and self._due >= min(TOGETHER, len(self._aging)):
                self._sync(self._ahead, self._due)
                self._due = 0
            if self._ahead.size > SETTLE_BYTES:
                self._sync(self._ahead, len(self._aging))
                self._turn_over(self._ahead)

    def _get_all(self, gets: Sequence[_Get]) -> None:
        for get in gets:
            try:
                get.found = self._get(get.key)
            except (OSError, UgalluError) as error:
                get.error = error

    def _is_new(self, put: _Put) -> bool:
        """Tell whether there is something to write; settles the put if its content is there already."""
        # A look at the name costs a fraction of an open that fails, and most puts are new.
        if put.key.startswith(STAGING) or not self._record_path(put.key).exists():
            return True
        put.record = self._same(put.key, put.record)
        if not self._object(put.key).exists():
            return True
        put.stored = self._stored(put.key, put.record)
        return False

    def _place(self, key: str, content: bytes, record: _Record) -> None:
        """Write record and content into their own files, whose names must be free; a torn one is mended on opening."""
        if key.startswith(STAGING):
            self._staging[key] = _Frame(key, content, record)
            return
        for path, written in ((self._record_path(key), _encode(record)), (self._object(key), content)):
            try:
                try:
                    create_whole(path, written)
                except FileNotFoundError:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    create_whole(path, written)
            except FileExistsError:
                if path.read_bytes() != written:
                    raise IntegrityError("the key already holds other content", where=key, fix=_ASK) from None
            self._unsynced[path] = len(written)

    def _settle(self, ahead: WriteAhead) -> None:
        """Make all files durable, and empty the write-ahead file."""
        self._sync(ahead, len(self._aging))
        self._turn_over(ahead)
        self._sync(ahead, len(self._aging))

    def _turn_over(self, ahead: WriteAhead) -> None:
        """Begin a new write-ahead file; the old one goes once the files behind it are durable."""
        self._aging |= self._unsynced
        self._unsynced.clear()
        ahead.rotate([msgspec.msgpack.encode(frame) for frame in self._staging.values()])

    def _sync(self, ahead: WriteAhead, most: int) -> None:
        """Make the next files behind the old write-ahead file durable, and let it go after the last."""
        if self._doubtful:
            self._replay(ahead)
            most = len(self._aging)
        self._doubtful = True
        paths = list(itertools.islice(self._aging, most))
        sync_files(paths)
        for path in paths:
            del self._aging[path]
            parent = path.parent
            while parent not in self._directories and parent != self._root.parent:
                self._directories[parent] = None
                parent = parent.parent
        if not self._aging:
            sync_files(list(self._directories))
            self._directories.clear()
            ahead.forget()
        self._doubtful = False

    def _recover(self) -> WriteAhead:
        make_directory(self._root)
        ahead = WriteAhead(self._root / "ahead")
        try:
            self._staging.clear()
            self._replay(ahead)
            self._settle(ahead)
        except BaseException:
            ahead.close()
            raise
        return ahead

    def _replay(self, ahead: WriteAhead) -> None:
        """Bring the files to what the write-ahead file says: what reached them stays, the rest is written again."""
        last = {frame.key: frame for frame in map(_decode, ahead.read())}
        for key, frame in last.items():
            if frame.record is None:
                self._remove(key)
            elif key.startswith(STAGING):
                self._staging[key] = frame
            else:
                if self._doubtful or self._held(key) != frame.content:
                    self._restore(key, frame.content, frame.record)
                # There is not on the disk: a dead process synced nothing of this.
                self._aging[self._object(key)] = self._aging[self._record_path(key)] = len(frame.content)

    def _restore(self, key: str, content: bytes, record: _Record) -> None:
        with contextlib.suppress(IntegrityError):
            held = self._record(key)
            if held is not None and held.sha256 == record.sha256:
                record = msgspec.structs.replace(_until(record, held.until), held=held.held)
        for path, written in ((self._record_path(key), _encode(record)), (self._object(key), content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, written)

    def _held(self, key: str) -> bytes | None:
        try:
            return self._read(key)[1]
        except PermanentError:
            return None

    def _same(self, key: str, record: _Record) -> _Record:
        """Check that the key already holds this very content, and extend its retention if asked."""
        old = self._record(key)
        if old is None:
            raise TransientError("the record went away while it was read", where=key)
        if (old.sha256, old.size) != (record.sha256, record.size):
            raise IntegrityError("the key already holds other content", where=key, fix=_ASK)
        return self._rewrite(key, old, _until(old, record.until))

    async def _amend(self, key: str, amend: Callable[[_Record], _Record]) -> Stored:
        key, _ = split(key)
        check_key(key)
        if key.startswith(STAGING):
            raise PermanentError("what is staged has no retention", where=key)
        async with self._turn:
            return await self._in_thread(lambda: self._amended(key, amend), key)

    def _amended(self, key: str, amend: Callable[[_Record], _Record]) -> Stored:
        self.open()
        record = self._record(key)
        if record is None:
            raise PermanentError("nothing is stored here", where=key)
        return self._stored(key, self._rewrite(key, record, amend(record)))

    def _rewrite(self, key: str, old: _Record, new: _Record) -> _Record:
        """Replace the record durably, if that changes anything: a longer retention must not be forgotten by a crash."""
        if new != old:
            path = self._record_path(key)
            write_durably(path, _encode(new))
            sync_directory(path.parent)
        return new

    def _get(self, key: str) -> tuple[Stored, bytes]:
        if (staged := self._staging.get(key)) is not None:
            assert staged.record is not None
            return self._stored(key, staged.record), staged.content
        try:
            record, content = self._read(key)
        except PermanentError:
            if (frame := self._acknowledged(key)) is None or frame.record is None:
                raise
            record, content = frame.record, frame.content
        return self._stored(key, record), content

    def _acknowledged(self, key: str) -> _Frame | None:
        """Return what a writer that died acknowledged of the key; only the next writer brings it into its files."""
        if self._ahead is not None:
            return None
        last: _Frame | None = None
        for frame in map(_decode, frames_of(self._root / "ahead")):
            if frame.key == key:
                last = frame
        return last if last is not None and last.record is not None else None

    def _read(self, key: str) -> tuple[_Record, bytes]:
        record = self._record(key)
        try:
            content = self._object(key).read_bytes()
        except FileNotFoundError:
            if record is not None:
                raise IntegrityError("recorded, but its content is gone", where=key) from None
            raise PermanentError("nothing is stored here", where=key) from None
        if record is None:
            raise IntegrityError("stored, but its record is gone", where=key)
        self._check(key, content, record)
        return record, content

    def _check(self, key: str, content: bytes, record: _Record) -> None:
        if _sha256(content) != record.sha256:
            raise IntegrityError("the content is not what was recorded", where=key, fix=_ASK)

    def _drop(self, key: str) -> None:
        record = self._record(key)
        if record is not None and record.held:
            raise RefusedError("under legal hold", where=key, fix="lift the hold first")
        if record is not None and record.until is not None and record.until > self._clock.now():
            raise RefusedError(f"kept until {record.until.isoformat()}", where=key)
        self.open()
        assert self._ahead is not None
        # Not synced: a drop that a crash forgets leaves something to drop again.
        self._ahead.append([msgspec.msgpack.encode(_Frame(key))], sync=False)
        self._remove(key)

    def _remove(self, key: str) -> None:
        if self._staging.pop(key, None) is not None:
            return
        for path in (self._object(key), self._record_path(key)):
            path.unlink(missing_ok=True)
            self._unsynced.pop(path, None)
            self._aging.pop(path, None)

    def _record(self, key: str) -> _Record | None:
        if (staged := self._staging.get(key)) is not None:
            return staged.record
        try:
            return msgspec.json.decode(self._record_path(key).read_bytes(), type=_Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise IntegrityError("the record cannot be read", where=key) from error

    def _recorded(self, key: str) -> _Record | None:
        try:
            record = self._record(key)
        except IntegrityError:
            if (frame := self._acknowledged(key)) is None:
                raise
            return frame.record
        if record is None and (frame := self._acknowledged(key)) is not None:
            return frame.record
        return record

    def _stored(self, key: str, record: _Record) -> Stored:
        return Stored(
            # No key has anything to quote.
            url=f"{self._objects_uri}/{key}",
            sha256=record.sha256,
            size=record.size,
            media_type=record.media_type,
            until=record.until,
            lock=self.lock,
            held=record.held,
        )

    def _object(self, key: str) -> Path:
        return Path(f"{self._root}/objects/{key}")

    def _record_path(self, key: str) -> Path:
        return Path(f"{self._root}/records/{key}.json")

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


def _decode(content: bytes) -> _Frame:
    return msgspec.msgpack.decode(content, type=_Frame)


def _until(record: _Record, until: dt.datetime | None) -> _Record:
    """Return the record with this date, unless its own is later."""
    if until is None or (record.until is not None and record.until >= until):
        return record
    return msgspec.structs.replace(record, until=until)


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _encode(record: _Record) -> bytes:
    return msgspec.json.encode(record)
