"""Evidence in a bucket with object lock: created once, locked by the service, read back as it was recorded.

Nothing is stored as evidence before the bucket has proven that it keeps it (`s3_canary`), and the proof is renewed.
What is recorded of an object lies with it: its digest in `x-amz-meta-sha256`, its retention in its lock. Drafts below
`staging/` have no lock; they may be replaced, and are dropped with all their versions.
"""

import datetime as dt
import hashlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import anyio
import msgspec
from anyio import to_thread

from ugallu.api.platform import EncryptionMode, ObjectLockMode, WORMBackend, WORMConfigSpec
from ugallu.api.quantity import whole
from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.ports import ElsewhereError, IntegrityError, Lock, Stored, UnprovenError
from ugallu.evidence.stores.directory import STAGING, check_key
from ugallu.evidence.stores.parts import from_url, split
from ugallu.evidence.stores.s3_canary import Promise, prove
from ugallu.evidence.stores.s3_client import (
    LEAST_PART,
    Credentials,
    Encryption,
    Endpoint,
    Exists,
    Found,
    Keys,
    Lasting,
    Missing,
    Parts,
    S3Client,
)
from ugallu.settings import Secret

T = TypeVar("T")

RENEW: Final = 3600.0
"""Seconds after which the proof of the lock is renewed."""
COUNTS: Final = 6 * RENEW
"""Seconds for which a proof counts that could not be renewed: after that nobody knows what the bucket does."""
PAUSE: Final = 60.0
"""Seconds for which a failed proof is believed: each try may leave a locked object behind."""
DIGEST: Final = "sha256"
"""Name of the metadata that records the digest, as hex."""
MOST_REMEMBERED: Final = 10_000
"""Drafts, and evidence, whose versions are remembered; those of others are asked for."""

_LOCKS: Final = {"COMPLIANCE": Lock.STORE, "GOVERNANCE": Lock.RIGHTS, "NONE": Lock.PROCESS}
_WEAKER: Final = (Lock.STORE, Lock.RIGHTS, Lock.PROCESS)
_ASK: Final = "keep the bucket as it is and find out who changed it"


class S3Store:
    """An `EvidenceStore` in one bucket, below a prefix."""

    def __init__(
        self, client: S3Client, bucket: str, promise: Promise, clock: Clock, *, prefix: str = "", endpoint: str = ""
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._promise = promise
        self._clock = clock
        self._prefix = prefix
        self._endpoint = endpoint
        self._proving = anyio.Lock()
        self._proven_at: float | None = None
        self._failed: tuple[float, UgalluError] | None = None
        self._drafts: OrderedDict[str, list[str]] = OrderedDict()
        self._evidence: OrderedDict[str, str] = OrderedDict()

    @property
    def endpoint(self) -> str:
        """`s3://bucket`, with the service behind an `@` unless it is Amazon's own."""
        return f"s3://{self._bucket}@{self._endpoint}" if self._endpoint else f"s3://{self._bucket}"

    @property
    def lock(self) -> Lock:
        """Who enforces retention here, once that is proven; nobody but us until then."""
        return _LOCKS[self._promise.mode] if self._age() < COUNTS else Lock.PROCESS

    def _age(self) -> float:
        return math.inf if self._proven_at is None else self._clock.monotonic() - self._proven_at

    @property
    def _locks(self) -> bool:
        return self._promise.mode != ObjectLockMode.NONE

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    async def prove(self) -> None:
        """Prove that the bucket keeps its promise; raises `UnprovenError`, and nothing is stored until it does.

        When the proof cannot be made because the service is away, an earlier one still counts for some hours.
        """
        try:
            await prove(self._client, self._bucket, self._prefix, self._promise, self._clock)
        except TransientError:
            raise
        except UgalluError as error:
            self._proven_at = None
            self._failed = (self._clock.monotonic(), error)
            raise
        self._proven_at, self._failed = self._clock.monotonic(), None

    def key(self, url: str) -> str:
        """Return the key behind a URL of this bucket."""
        whole_url, part = from_url(url)
        scheme, _, path = whole_url.partition("://")
        bucket, _, key = path.partition("/")
        if scheme != "s3" or bucket != self._bucket or not key.startswith(self._prefix):
            raise ElsewhereError(f"not the URL of something in {self.endpoint}", where=url[:200])
        key = key.removeprefix(self._prefix)
        check_key(key)
        return key + part

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store once; see `EvidenceStore`. The date is kept in whole seconds, rounded up."""
        check_key(key)
        if key.startswith(STAGING):
            return await self._stage(key, content, media_type)
        if until is None:
            raise PermanentError("evidence needs a retention date", where=key)
        await self._be_proven()
        digest, until = hashlib.sha256(content).hexdigest(), _whole(until)
        # Where nothing is locked the date is recorded beside the digest, for ourselves.
        locked = self._locks
        metadata = {DIGEST: digest} if locked else {DIGEST: digest, _UNTIL: until.isoformat()}
        try:
            version = await self._client.put(
                self._bucket,
                self._prefix + key,
                content,
                media_type=media_type,
                metadata=metadata,
                lasting=Lasting(self._promise.mode, until) if locked else None,
                encryption=self._promise.encryption,
                create=True,
            )
        except Exists:
            return await self._same(key, digest, len(content), until)
        self._remember(key, version)
        return self._stored(key, Found("", len(content), media_type, metadata, Lasting(self._promise.mode, until)))

    async def get(self, key: str) -> bytes:
        """Return the content after checking it against the recorded digest."""
        return (await self.read(key))[1]

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Return what is recorded now, lock included, and the content; see `EvidenceStore`."""
        key, part = split(key)
        check_key(key)
        got = await self._asked(key, self._client.get)
        if got is None:
            raise PermanentError("nothing is stored here", where=self._where(key))
        found, content = got
        if found.metadata.get(DIGEST) != hashlib.sha256(content).hexdigest():
            raise IntegrityError("the content is not what was recorded", where=self._where(key), fix=_ASK)
        if found.lasting is None and self._locks and not key.startswith(STAGING):
            # Some services show a lock to HEAD alone.
            found = await self._seen(self._bucket, self._prefix + key, found.version)
        stored = self._stored(key, found)
        return (stored, content) if part is None else part.of(stored, content)

    async def stat(self, key: str) -> Stored | None:
        """Return what is recorded of the key, None when there is nothing."""
        whole_key, part = split(key)
        check_key(whole_key)
        found = await self._head(whole_key)
        if found is not None and part is not None:
            return (await self.read(key))[0]
        return None if found is None else self._stored(key, found)

    async def extend(self, key: str, until: dt.datetime) -> Stored:
        """Keep a key longer; see `EvidenceStore`."""
        key, _ = split(key)
        found = await self._kept(key)
        return self._stored(key, await self._extended(key, found, _whole(until)))

    async def hold(self, key: str, *, on: bool) -> Stored:
        """Put a key under legal hold, or lift it; see `EvidenceStore`."""
        key, _ = split(key)
        found = await self._kept(key)
        if found.held is not on:
            await self._client.hold(self._bucket, self._prefix + key, found.version, on=on)
            found = await self._seen(self._bucket, self._prefix + key, found.version)
            if found.held is not on:
                raise UnprovenError("the store takes legal holds and ignores them", where=self._where(key))
        return self._stored(key, found)

    async def drop(self, key: str) -> None:
        """Remove a key with all its versions, once nothing keeps it; a missing one is no error."""
        check_key(key)
        if key.startswith(STAGING):
            await self._unstage(key)
            return
        while (found := await self._head(key)) is not None:
            stored = self._stored(key, found)
            if stored.held:
                raise RefusedError("under legal hold", where=self._where(key), fix="lift the hold first")
            if stored.until is not None and stored.until > self._clock.now():
                raise RefusedError(f"kept until {stored.until.isoformat()}", where=self._where(key))
            await self._client.remove(self._bucket, self._prefix + key, found.version)
            self._evidence.pop(key, None)
        await self._remove_versions(key)

    async def _be_proven(self) -> None:
        async with self._proving:
            age = self._age()
            if age <= RENEW:
                return
            if self._failed is not None and self._clock.monotonic() - self._failed[0] < PAUSE:
                raise self._failed[1]
            try:
                await self.prove()
            except TransientError:
                # The put that follows will say so, or not: locks do not come off while a service is busy. But one that
                # is busy for canaries alone, and for hours, is not believed.
                if age > COUNTS:
                    raise

    async def _stage(self, key: str, content: bytes, media_type: str) -> Stored:
        digest = hashlib.sha256(content).hexdigest()
        version = await self._client.put(
            self._bucket,
            self._prefix + key,
            content,
            media_type=media_type,
            metadata={DIGEST: digest},
            encryption=self._promise.encryption,
        )
        if key in self._drafts or len(self._drafts) < MOST_REMEMBERED:
            self._drafts.setdefault(key, []).append(version)
        return self._stored(key, Found(version, len(content), media_type, {DIGEST: digest}))

    async def _unstage(self, key: str) -> None:
        known = self._drafts.pop(key, None)
        if known is None or not all(known):
            # Another process staged it, or nothing is versioned.
            await self._remove_versions(key)
            return
        for version in known:
            await self._client.remove(self._bucket, self._prefix + key, version)
        if await self._head(key) is not None:
            await self._remove_versions(key)

    async def _remove_versions(self, key: str) -> None:
        async for version in self._client.versions(self._bucket, self._prefix + key):
            if version.key == self._prefix + key:
                await self._client.remove(self._bucket, version.key, version.id)

    def _remember(self, key: str, version: str) -> None:
        if version and self._locks:
            self._evidence[key] = version
            if len(self._evidence) > MOST_REMEMBERED:
                self._evidence.popitem(last=False)

    async def _asked(self, key: str, ask: Callable[[str, str, str], Awaitable[T]]) -> T | None:
        """Return what the service says of the version of a key that is the evidence, None if there is nothing.

        That is the first one, which was created: whoever may write can put another over it, with metadata as he likes,
        and a marker over that. Where nothing is locked there may be one version only.
        """
        name = self._prefix + key
        if not self._locks or key.startswith(STAGING):
            try:
                return await ask(self._bucket, name, "")
            except Missing:
                first = await self._first(key)
                return await ask(self._bucket, name, first) if first else None
        known = self._evidence.get(key, "")
        version = known or await self._first(key)
        if not version:
            return None
        try:
            found = await ask(self._bucket, name, version)
        except Missing:
            # Another process dropped it, once its retention had ended.
            self._evidence.pop(key, None)
            return await self._asked(key, ask) if known else None
        self._remember(key, version)
        return found

    async def _seen(self, bucket: str, name: str, version: str) -> Found:
        """Return what is said of a version; some services show the lock of an older one when asked for that alone."""
        found = await self._client.head(bucket, name, version)
        if found.lasting is not None or not version or not self._locks or name.startswith(self._prefix + STAGING):
            return found
        lasting, held = await self._client.locked(bucket, name, version)
        return msgspec.structs.replace(found, lasting=lasting, held=found.held or held)

    async def _first(self, key: str) -> str:
        """Return the first version of a key, empty if there is none: evidence lies below what came after it."""
        oldest = ""
        async for version in self._client.versions(self._bucket, self._prefix + key):
            if version.key == self._prefix + key and not version.marker:
                oldest = version.id
        return oldest

    async def _head(self, key: str) -> Found | None:
        return await self._asked(key, self._seen)

    async def _kept(self, key: str) -> Found:
        check_key(key)
        if key.startswith(STAGING):
            raise PermanentError("what is staged has no retention", where=self._where(key))
        found = await self._head(key)
        if found is None:
            raise PermanentError("nothing is stored here", where=self._where(key))
        if not self._locks:
            raise RefusedError("nothing is locked here", where=self._where(key), fix="set spec.objectLockMode")
        return found

    async def _same(self, key: str, digest: str, size: int, until: dt.datetime) -> Stored:
        """Check that the key holds this very content, and extend its retention if asked."""
        found = await self._head(key)
        if found is None:
            raise TransientError("taken when it was to be created, and gone since", where=self._where(key))
        if (found.metadata.get(DIGEST), found.size) != (digest, size):
            raise IntegrityError("the key already holds other content", where=self._where(key), fix=_ASK)
        if self._locks:
            found = await self._extended(key, found, until)
        return self._stored(key, found)

    async def _extended(self, key: str, found: Found, until: dt.datetime) -> Found:
        if found.lasting is not None and found.lasting.until >= until:
            return found
        # In its own mode: services refuse to change that, and `lock` tells which it is.
        mode = found.lasting.mode if found.lasting is not None else self._promise.mode
        await self._client.retain(self._bucket, self._prefix + key, found.version, Lasting(mode, until))
        found = await self._seen(self._bucket, self._prefix + key, found.version)
        if found.lasting is None or found.lasting.until < until:
            raise UnprovenError("the store says that it extends a lock, and does not", where=self._where(key))
        return found

    def _stored(self, key: str, found: Found) -> Stored:
        until = found.lasting.until if found.lasting is not None else None
        if not self._locks and _UNTIL in found.metadata:
            until = _moment(found.metadata[_UNTIL], self._where(key))
        return Stored(
            url=f"s3://{self._bucket}/{self._prefix}{key}",
            sha256=f"sha256:{found.metadata.get(DIGEST, '')}",
            size=found.size,
            media_type=found.media_type,
            until=until,
            lock=self._lock_of(found.lasting),
            held=found.held,
        )

    def _lock_of(self, lasting: Lasting | None) -> Lock:
        """Return who keeps one object: what its own lock says, and no more than what the bucket has proven."""
        if lasting is None:
            return Lock.PROCESS
        return max(self.lock, _LOCKS.get(lasting.mode, Lock.PROCESS), key=_WEAKER.index)

    def _where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"


_UNTIL: Final = "until"


def open_store(
    spec: WORMConfigSpec, credentials: Credentials, clock: Clock, *, ca: Path | None = None, seconds: float = 60.0
) -> S3Store:
    """Return the store that a config describes; nothing is asked before its first use. `seconds` bound one try.

    Raises `PermanentError` for a config that cannot be followed.
    """
    if not spec.bucket:
        raise PermanentError("no bucket is named", where="WORMConfig spec.bucket")
    amazon = spec.backend is WORMBackend.AWS_S3 and not spec.endpoint
    if not spec.endpoint and not amazon:
        raise PermanentError(
            "no endpoint is named", where="WORMConfig spec.endpoint", fix="only aws-s3 has one of its own"
        )
    prefix = spec.key_prefix.strip("/")
    if prefix:
        check_key(prefix)
        prefix += "/"
    endpoint = Endpoint(
        url=spec.endpoint.rstrip("/"), region=spec.region or "us-east-1", path_style=spec.use_path_style, ca=ca
    )
    return S3Store(
        S3Client(endpoint, credentials, clock, parts=_parts(spec), seconds=seconds),
        spec.bucket,
        Promise(spec.object_lock_mode, _encryption(spec)),
        clock,
        prefix=prefix,
        endpoint=endpoint.url.partition("://")[2],
    )


def from_folder(folder: Path) -> Credentials:
    """Return credentials that lie in a mounted Secret: `access-key`, `secret-key`, perhaps `session-token`."""

    def text(name: str) -> Secret[str]:
        try:
            return Secret((folder / name).read_text().strip())
        except OSError as error:
            raise TransientError(
                str(error.strerror), where=str(folder / name), fix="mount the Secret with access-key and secret-key"
            ) from error

    def read() -> Keys:
        token = text("session-token") if (folder / "session-token").exists() else None
        return Keys(text("access-key"), text("secret-key"), token)

    async def credentials() -> Keys:
        return await to_thread.run_sync(read)

    return credentials


def _parts(spec: WORMConfigSpec) -> Parts:
    asked, ours = spec.multipart, Parts()
    if asked is None:
        return ours
    where = "WORMConfig spec.multipart"
    size = whole(asked.chunk_size, where=f"{where}.chunkSize") if asked.chunk_size is not None else ours.size
    threshold = whole(asked.threshold, where=f"{where}.threshold") if asked.threshold is not None else ours.threshold
    if size < LEAST_PART:
        raise PermanentError("parts have 5Mi at least", where=f"{where}.chunkSize")
    return Parts(max(threshold, LEAST_PART), size, asked.concurrency or ours.at_once)


def _encryption(spec: WORMConfigSpec) -> Encryption:
    match spec.encryption.mode:
        case EncryptionMode.SSE_KMS:
            return Encryption("aws:kms", spec.encryption.kms_key_id)
        case EncryptionMode.SSE_S3:
            return Encryption("AES256")
        case EncryptionMode.NONE:
            return Encryption()


def _whole(until: dt.datetime) -> dt.datetime:
    """Return the date in whole seconds, rounded up: services cut off the rest, and the lock would be too short."""
    utc = until.astimezone(dt.UTC)
    return utc if not utc.microsecond else utc.replace(microsecond=0) + dt.timedelta(seconds=1)


def _moment(text: str, where: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise IntegrityError("the recorded date cannot be read", where=where) from error
