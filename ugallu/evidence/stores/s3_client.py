"""The door to aiobotocore: one S3 client a process, its calls as plain values, its errors as ours.

A call is tried again while it may help, within a budget that all calls share: a store that is down is not made worse.
What is sent twice is safe twice: content goes under keys that are created once, everything else is idempotent.
"""

import base64
import datetime as dt
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import msgspec

from ugallu.clock import Clock
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.ports import CredentialsError, FullError
from ugallu.pace import Backoff, TokenBucket
from ugallu.settings import Secret

T = TypeVar("T")

AT_ONCE: Final = 32
"""Requests under way at once."""
SECONDS: Final = 60.0
"""How long one try may take."""
TRIES: Final = 4
FRESH: Final = 10.0
"""Seconds after which credentials are read again: who replaces them need not restart us."""
LEAST_PART: Final = 5 << 20
MOST_PARTS: Final = 10_000
MAX_OBJECT: Final = 4 << 30
"""Larger ones are not read: evidence is checked as a whole, in memory."""


class Keys(msgspec.Struct, frozen=True):
    """What requests are signed with."""

    access: Secret[str]
    secret: Secret[str]
    token: Secret[str] | None = None


Credentials = Callable[[], Awaitable[Keys | None]]
"""Returns the keys as they are now; None for those of the machine (instance role, web identity)."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service is, and how it is spoken to. An empty `url` is Amazon's own."""

    url: str = ""
    region: str = "us-east-1"
    path_style: bool = True
    ca: Path | None = None
    """Certificates that vouch for the service, instead of the system's."""

    @property
    def name(self) -> str:
        """How errors name it."""
        return self.url or f"s3.{self.region}"


class Parts(msgspec.Struct, frozen=True):
    """How large content is sent: from `threshold` bytes on in parts of `size`, `at_once` of them together."""

    threshold: int = 64 << 20
    size: int = 16 << 20
    at_once: int = 4


class Lasting(msgspec.Struct, frozen=True):
    """The lock of one object: `COMPLIANCE` or `GOVERNANCE`, whole seconds."""

    mode: str
    until: dt.datetime


class Encryption(msgspec.Struct, frozen=True):
    """How the service encrypts: its own word (`AES256`, `aws:kms`), and a key for the latter."""

    algorithm: str = ""
    key: str = ""


class Version(msgspec.Struct, frozen=True):
    """One version of an object; a marker says that the key was deleted after it."""

    key: str
    id: str
    size: int = 0
    marker: bool = False


class Found(msgspec.Struct, frozen=True):
    """What the service says of an object."""

    version: str
    size: int
    media_type: str
    metadata: dict[str, str]
    lasting: Lasting | None = None
    held: bool = False
    encryption: Encryption = Encryption()


class Exists(ConflictError):  # noqa: N818 - not a failure: somebody was first
    """The key is taken, and was to be created."""


class Missing(PermanentError):  # noqa: N818 - what callers ask for
    """There is no such object."""


class S3Client:
    """Calls to one service. Opened by the first call; `aclose` lets go of its connections."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        clock: Clock,
        *,
        parts: Parts = Parts(),  # noqa: B008 - frozen
        seconds: float = SECONDS,
        first_wait: float = 0.2,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._clock = clock
        self._parts = parts
        self._seconds = seconds
        self._first_wait = first_wait
        self._opening = anyio.Lock()
        self._places = anyio.CapacityLimiter(AT_ONCE)
        self._budget = TokenBucket(rate=2.0, burst=20.0)
        self._held = AsyncExitStack()
        self._client: Any = None

    def __repr__(self) -> str:
        return f"S3Client({self._endpoint.name})"

    async def aclose(self) -> None:
        """Let go of all connections; a later call opens anew."""
        async with self._opening:
            held, self._held, self._client = self._held, AsyncExitStack(), None
            await held.aclose()

    async def lock_enabled(self, bucket: str) -> bool:
        """Tell whether the bucket was made with object lock."""
        try:
            found = await self._call("get_object_lock_configuration", bucket, Bucket=bucket)
        except Missing:
            return False
        return bool(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    async def versioned(self, bucket: str) -> bool:
        """Tell whether an overwritten object stays as an older version."""
        found = await self._call("get_bucket_versioning", bucket, Bucket=bucket)
        return bool(found.get("Status") == "Enabled")

    async def put(
        self,
        bucket: str,
        key: str,
        content: bytes,
        *,
        media_type: str,
        metadata: dict[str, str],
        lasting: Lasting | None = None,
        encryption: Encryption = Encryption(),  # noqa: B008 - frozen
        create: bool = False,
    ) -> str:
        """Store content and return its version id; raises `Exists` if it was to be created and the key is taken."""
        about: dict[str, Any] = {"Bucket": bucket, "Key": key, "ContentType": media_type, "Metadata": metadata}
        if lasting is not None:
            about |= {"ObjectLockMode": lasting.mode, "ObjectLockRetainUntilDate": lasting.until}
        if encryption.algorithm:
            about["ServerSideEncryption"] = encryption.algorithm
        if encryption.key:
            about["SSEKMSKeyId"] = encryption.key
        once = {"IfNoneMatch": "*"} if create else {}
        if len(content) >= self._parts.threshold:
            return await self._put_parts(about, once, content)
        found = await self._call("put_object", key, **about, **once, Body=content, ChecksumSHA256=_checksum(content))
        return str(found.get("VersionId", ""))

    async def head(self, bucket: str, key: str, version: str = "") -> Found:
        """Return what is said of an object; raises `Missing`."""
        return _found(await self._call("head_object", key, Bucket=bucket, Key=key, **_at(version)))

    async def get(self, bucket: str, key: str, version: str = "") -> tuple[Found, bytes]:
        """Return an object; raises `Missing`. Its content is as it came: the caller knows what it should be."""

        async def read(client: Any) -> tuple[Found, bytes]:  # noqa: ANN401 - generated at run time
            answer = await client.get_object(Bucket=bucket, Key=key, **_at(version))
            async with answer["Body"] as body:
                found = _found(answer)
                if found.size > MAX_OBJECT:
                    raise PermanentError(f"larger than {MAX_OBJECT} bytes", where=key)
                return found, await body.read()

        return await self._tried(key, read)

    async def remove(self, bucket: str, key: str, version: str = "", *, bypass: bool = False) -> None:
        """Remove a version for good, or the key where nothing is versioned; a missing one is no error.

        `bypass` asks to pass by a lock, as GOVERNANCE allows to some.
        """
        try:
            await self._call("delete_object", key, Bucket=bucket, Key=key, **_at(version), **_passing(bypass=bypass))
        except Missing:
            return
        except PermanentError as error:
            if error.what.startswith("InvalidRequest"):  # MinIO's word for what is locked
                raise RefusedError(error.what, where=error.where) from error
            raise

    async def retain(self, bucket: str, key: str, version: str, lasting: Lasting, *, bypass: bool = False) -> None:
        """Set the lock of a version anew; the service refuses to shorten it. `bypass` as of `remove`."""
        about = {"Retention": {"Mode": lasting.mode, "RetainUntilDate": lasting.until}, **_passing(bypass=bypass)}
        await self._call("put_object_retention", key, Bucket=bucket, Key=key, **about, **_at(version))

    async def hold(self, bucket: str, key: str, version: str, *, on: bool) -> None:
        """Put a version under legal hold, or lift it."""
        status = {"Status": "ON" if on else "OFF"}
        await self._call("put_object_legal_hold", key, Bucket=bucket, Key=key, LegalHold=status, **_at(version))

    async def locked(self, bucket: str, key: str, version: str) -> tuple[Lasting | None, bool]:
        """Return the lock of a version, None for none, and whether it is under legal hold."""
        at = {"Bucket": bucket, "Key": key, **_at(version)}
        lasting, held = None, False
        with suppress(Missing):
            raw = (await self._call("get_object_retention", key, **at)).get("Retention", {})
            if "RetainUntilDate" in raw:
                lasting = Lasting(raw.get("Mode", ""), raw["RetainUntilDate"].astimezone(dt.UTC))
        with suppress(Missing):
            raw = (await self._call("get_object_legal_hold", key, **at)).get("LegalHold", {})
            held = raw.get("Status") == "ON"
        return lasting, held

    async def versions(self, bucket: str, prefix: str) -> AsyncIterator[Version]:
        """Yield all versions and markers below a prefix, newest first within a key, page after page."""
        marks: dict[str, str] = {}
        while True:
            page = await self._call("list_object_versions", prefix, Bucket=bucket, Prefix=prefix, **marks)
            found = [_version(raw) for raw in page.get("Versions", ())]
            found += [_version(raw, marker=True) for raw in page.get("DeleteMarkers", ())]
            for version in found:
                yield version
            if not page.get("IsTruncated"):
                return
            seen = marks
            marks = {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
            if marks == seen or not marks["KeyMarker"]:
                raise TransientError("a list of versions that does not go on", where=self._endpoint.name)

    async def _put_parts(self, about: dict[str, Any], once: dict[str, str], content: bytes) -> str:
        """Send in parts; whatever fails, the service is told to forget them, or it would keep and bill them."""
        key = about["Key"]
        # Without the algorithm here, services refuse parts that bring a checksum.
        begun = await self._call("create_multipart_upload", key, **about, ChecksumAlgorithm="SHA256")
        upload = {"Bucket": about["Bucket"], "Key": key, "UploadId": begun.get("UploadId", "")}
        try:
            done = await self._send_parts(upload, content)
            parts = {"Parts": [done[number] for number in sorted(done)]}
            found = await self._call("complete_multipart_upload", key, **upload, **once, MultipartUpload=parts)
        except BaseException:
            # The first error says more than one of this.
            with anyio.move_on_after(5, shield=True), suppress(UgalluError):
                await self._call("abort_multipart_upload", key, **upload)
            raise
        return str(found.get("VersionId", ""))

    async def _send_parts(self, upload: dict[str, str], content: bytes) -> dict[int, dict[str, Any]]:
        size = max(self._parts.size, LEAST_PART, math.ceil(len(content) / MOST_PARTS))
        done: dict[int, dict[str, Any]] = {}
        failed: list[UgalluError] = []
        places = anyio.CapacityLimiter(max(1, self._parts.at_once))
        view = memoryview(content)

        async def send(number: int) -> None:
            async with places:
                if failed:
                    return
                part = bytes(view[(number - 1) * size : number * size])
                checksum = _checksum(part)
                try:
                    answer = await self._call(
                        "upload_part", upload["Key"], **upload, PartNumber=number, Body=part, ChecksumSHA256=checksum
                    )
                except UgalluError as error:
                    failed.append(error)
                    return
                done[number] = {"PartNumber": number, "ETag": answer.get("ETag", ""), "ChecksumSHA256": checksum}

        async with anyio.create_task_group() as tg:
            for number in range(1, math.ceil(len(content) / size) + 1):
                tg.start_soon(send, number)
        if failed:
            raise failed[0]
        return done

    async def _call(self, name: str, what: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - as S3 has them
        async def call(client: Any) -> dict[str, Any]:  # noqa: ANN401 - generated at run time
            answer: dict[str, Any] = await getattr(client, name)(**arguments)
            return answer

        return await self._tried(what, call)

    async def _tried(self, what: str, call: Callable[[Any], Awaitable[T]]) -> T:
        pause = Backoff(first=self._first_wait, ceiling=5.0)
        while True:
            try:
                return await self._once(what, call)
            except TransientError as error:
                if pause.attempts + 1 >= TRIES or not self._budget.take(self._clock.monotonic()):
                    raise
                await self._clock.sleep(pause.next(at_least=min(error.retry_after or 0.0, 5.0)))

    async def _once(self, what: str, call: Callable[[Any], Awaitable[T]]) -> T:
        from aiohttp import ClientError as ConnectionFailure
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError
        from botocore.parsers import ResponseParserError

        where = f"{self._endpoint.name} {what}"
        try:
            async with self._places:
                with anyio.fail_after(self._seconds):
                    client = self._client or await self._open()
                    return await call(client)
        except ClientError as error:
            raise translated(error.response, where) from error
        except NoCredentialsError as error:
            raise CredentialsError("there are no credentials", where=where, fix=_NAME_SECRET) from error
        except ParamValidationError as error:
            raise PermanentError(_first_line(error), where=where) from error
        except (BotoCoreError, ResponseParserError, ConnectionFailure, TimeoutError, OSError) as error:
            raise TransientError(_first_line(error) or "no answer in time", where=where) from error

    async def _open(self) -> Any:  # noqa: ANN401 - generated at run time
        async with self._opening:
            if self._client is None:
                from aiobotocore.config import AioConfig
                from aiobotocore.session import AioSession

                session = AioSession()
                if await self._credentials() is not None:
                    session._credentials = _live(self._credentials, self._clock)  # noqa: SLF001 - its setter takes texts
                config = AioConfig(
                    s3={"addressing_style": "path" if self._endpoint.path_style else "virtual"},
                    retries={"total_max_attempts": 1},  # ours have a budget
                    connect_timeout=10,
                    read_timeout=self._seconds,
                    max_pool_connections=AT_ONCE,
                    # Checksums are ours, of everything, and checked over what was read back.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    ignore_configured_endpoint_urls=True,
                    warm_up_loader_caches=True,  # some 200 ms of JSON, beside the loop
                )
                making = session.create_client(
                    "s3",
                    region_name=self._endpoint.region,
                    endpoint_url=self._endpoint.url or None,
                    verify=str(self._endpoint.ca) if self._endpoint.ca else None,
                    config=config,
                )
                self._client = await self._held.enter_async_context(making)
            return self._client


_NAME_SECRET: Final = "name a Secret with access-key and secret-key, or give the Pod an identity"  # noqa: S105 - words

_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XAdminUserNotFound",  # versitygw's, with a 404
        "AuthorizationHeaderMalformed",
    }
)
_FULL: Final = frozenset(
    {
        "QuotaExceeded",
        "InsufficientStorage",
        "ServiceQuotaExceeded",
        "StorageFull",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "EntityTooLargeForQuota",
    }
)
_MISSING: Final = frozenset(
    {
        "404",  # of a HEAD, whose answers have no body
        "NoSuchKey",
        "NoSuchObjectLockConfiguration",
        "NoSuchUpload",
        "NoSuchVersion",
        "ObjectLockConfigurationNotFoundError",
    }
)
"""Not every 404: who takes another one for "not there" would take a wrong user for lost evidence."""
_AGAIN: Final = frozenset(
    {
        "BadDigest",  # of what we sent: damaged on the way
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
    }
)


def translated(answer: Any, where: str) -> UgalluError:  # noqa: ANN401 - a dictionary as botocore makes it
    """Return the error of ours for an answer that is one."""
    code = str(answer.get("Error", {}).get("Code", ""))
    about = answer.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    message = str(answer.get("Error", {}).get("Message", ""))[:200]
    what = f"{code or status}: {message}" if message else code or f"status {status}"
    if status == 412 or code == "PreconditionFailed":
        return Exists(what, where=where)
    if code == "NoSuchBucket":
        return PermanentError(what, where=where, fix="make the bucket, with object lock")
    if code in _FULL or status == 507:
        return FullError(what, where=where, fix="make room, or raise the quota")
    if code in _CREDENTIALS or status == 401:
        return CredentialsError(what, where=where, fix="renew the credentials")
    if code == "RequestTimeTooSkewed":
        return RefusedError(what, where=where, fix="set the clock of this machine, or of the store")
    if code in _MISSING:
        return Missing(what, where=where)
    if code in _AGAIN or status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return TransientError(what, where=where, retry_after=_seconds(about.get("HTTPHeaders", {}).get("retry-after")))
    if status == 403:
        return RefusedError(what, where=where)
    return PermanentError(what, where=where)


def _seconds(text: object) -> float | None:
    return float(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 6 else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _at(version: str) -> dict[str, str]:
    return {"VersionId": version} if version else {}


def _passing(*, bypass: bool) -> dict[str, bool]:
    return {"BypassGovernanceRetention": True} if bypass else {}


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _version(raw: Any, *, marker: bool = False) -> Version:  # noqa: ANN401 - a dictionary as botocore makes it
    return Version(raw["Key"], raw.get("VersionId", ""), raw.get("Size", 0), marker)


def _found(raw: Any) -> Found:  # noqa: ANN401 - a dictionary as botocore makes it
    until = raw.get("ObjectLockRetainUntilDate")
    return Found(
        version=raw.get("VersionId", ""),
        size=raw.get("ContentLength", -1),
        media_type=raw.get("ContentType", ""),
        metadata=raw.get("Metadata", {}),
        lasting=Lasting(raw.get("ObjectLockMode", ""), until.astimezone(dt.UTC)) if until is not None else None,
        held=raw.get("ObjectLockLegalHoldStatus") == "ON",
        encryption=Encryption(raw.get("ServerSideEncryption", ""), raw.get("SSEKMSKeyId", "")),
    )


def _live(credentials: Credentials, clock: Clock) -> Any:  # noqa: ANN401 - a subclass of a class imported here
    """Return credentials in botocore's form that are read again when they are older than `FRESH`."""
    from aiobotocore.credentials import AioCredentials
    from botocore.credentials import ReadOnlyCredentials

    class Live(AioCredentials):  # type: ignore[misc]  # untyped
        read_at: float | None = None
        frozen: ReadOnlyCredentials | None = None

        async def get_frozen_credentials(self) -> ReadOnlyCredentials:
            now = clock.monotonic()
            if self.read_at is None or now - self.read_at > FRESH:
                keys = await credentials()
                if keys is None:
                    raise CredentialsError("the credentials are gone", fix=_NAME_SECRET)
                token = keys.token.reveal() if keys.token is not None else None
                self.frozen = ReadOnlyCredentials(keys.access.reveal(), keys.secret.reveal(), token)
                self.read_at = now
            return self.frozen

    return Live("live", "live", None, "ugallu")
