"""An S3 service with object lock, in this process: it keeps its promises, or breaks the ones that a test names.

It demands what Amazon's does and the servers of the rig do not: a checksum with every locked upload. What it does not
know it answers with 501.
"""

import asyncio
import base64
import datetime as dt
import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from ugallu.clock import Clock
from ugallu.evidence.stores.s3_client import Keys
from ugallu.settings import Secret

ACCESS: Final = "fake-access"
SECRET: Final = "fake-secret"  # noqa: S105 - of a fake
PAGE: Final = 3
"""Versions on one page of a list: small, so that paging is always tried."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names in lower case."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `cut` ends the connection after so many bytes of the body, `silent` never answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    silent: bool = False


@dataclass(slots=True)
class Held:
    """One version of an object; without content it is a delete marker."""

    id: str
    content: bytes | None
    headers: dict[str, str]
    mode: str = ""
    until: dt.datetime | None = None
    hold: bool = False


@dataclass(slots=True)
class Breaks:
    """Which promises this service breaks."""

    locks: bool = False
    """Takes lock headers, shows them, and lets everything be deleted and shortened."""
    lock_headers: bool = False
    """Takes lock headers and forgets them."""
    conditions: bool = False
    """Writes over what was to be created once."""
    encryption: bool = False
    versions: bool = False
    deletes: bool = False
    """Refuses every deletion."""
    content: bool = False
    """Gives back other bytes."""
    bypass: bool = False
    """Lets everybody pass by every lock who asks to."""


Fault = Callable[[Request], Reply | None]


class FakeS3:
    """Buckets in memory.

    `fault` sees every request first and may answer it; `after` sees what was done and may change the answer.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.buckets: dict[str, dict[str, list[Held]]] = {}
        self.unlocked: set[str] = set()
        self.breaks = Breaks()
        self.access = ACCESS
        self.capacity: int | None = None
        self.fault: Fault = lambda _: None
        self.after: Callable[[Request, Reply], Reply] = lambda _, reply: reply
        self.requests: list[Request] = []
        self.uploads: dict[str, tuple[Request, dict[int, bytes]]] = {}
        self.port = 0
        self._ids = itertools.count(1)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def credentials(self) -> Keys:
        """Return what a store of this service signs with."""
        return Keys(Secret(ACCESS), Secret(SECRET))

    def bucket(self, name: str, *, lock: bool = True) -> str:
        """Make a bucket."""
        self.buckets[name] = {}
        if not lock:
            self.unlocked.add(name)
        return name

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeS3"]:
        """Listen on a free port of this machine."""
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _read(reader, writer)
            self.requests.append(request)
            reply = self.fault(request) or self.after(request, self.answer(request))
            if reply.silent:
                await reader.read()  # until the caller gives up
            body = b"" if request.method == "HEAD" else reply.body
            size = reply.headers.get("content-length", str(len(reply.body)))
            lines = {**reply.headers, "content-length": size, "connection": "close"}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode() + body[: reply.cut])
            await writer.drain()
        writer.close()

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        if f"Credential={self.access}/" not in request.headers.get("authorization", ""):
            return error(403, "InvalidAccessKeyId", "The access key does not exist.")
        if request.bucket not in self.buckets:
            return error(404, "NoSuchBucket", "The bucket does not exist.")
        for flag, method, answer in (
            ("object-lock", "GET", self._lock_configuration),
            ("versioning", "GET", self._versioning),
            ("versions", "GET", self._versions),
            ("retention", "PUT", self._retain),
            ("retention", "GET", self._lock_of),
            ("legal-hold", "GET", self._lock_of),
            ("legal-hold", "PUT", self._hold),
            ("uploads", "POST", self._begin),
            ("partNumber", "PUT", self._part),
            ("uploadId", "POST", self._complete),
            ("uploadId", "DELETE", self._abort),
        ):
            if flag in request.query and request.method == method:
                return answer(request)
        plain = {"PUT": self._put, "GET": self._get, "HEAD": self._get, "DELETE": self._delete}.get(request.method)
        return plain(request) if plain is not None else error(501, "NotImplemented", request.method)

    def _lock_configuration(self, request: Request) -> Reply:
        if request.bucket in self.unlocked:
            return error(404, "ObjectLockConfigurationNotFoundError", "none")
        return _xml("ObjectLockConfiguration", "<ObjectLockEnabled>Enabled</ObjectLockEnabled>")

    def _versioning(self, request: Request) -> Reply:
        status = "" if request.bucket in self.unlocked or self.breaks.versions else "<Status>Enabled</Status>"
        return _xml("VersioningConfiguration", status)

    def _versions(self, request: Request) -> Reply:
        prefix = request.query.get("prefix", "")
        after = (request.query.get("key-marker", ""), request.query.get("version-id-marker", ""))
        found = [
            (key, version)
            for key, versions in sorted(self.buckets[request.bucket].items())
            if key.startswith(prefix)
            for version in reversed(versions)
        ]
        places = [(key, version.id) for key, version in found]
        rest = found[places.index(after) + 1 :] if after in places else found
        page = rest[:PAGE]
        parts = []
        for key, version in page:
            name = "DeleteMarker" if version.content is None else "Version"
            size = len(version.content or b"")
            parts.append(
                f"<{name}><Key>{escape(key)}</Key><VersionId>{version.id}</VersionId><Size>{size}</Size></{name}>"
            )
        cut = len(rest) > PAGE
        parts.append(f"<IsTruncated>{str(cut).lower()}</IsTruncated>")
        if cut:
            key, version = page[-1]
            parts.append(f"<NextKeyMarker>{escape(key)}</NextKeyMarker>")
            parts.append(f"<NextVersionIdMarker>{version.id}</NextVersionIdMarker>")
        return _xml("ListVersionsResult", "".join(parts))

    def _put(self, request: Request) -> Reply:
        wrong = self._checked(request)
        return wrong or self._store(request, request.body)

    def _checked(self, request: Request) -> Reply | None:
        asked = request.headers.get("x-amz-checksum-sha256")
        if asked is not None and asked != _checksum(request.body):
            return error(400, "BadDigest", "The SHA256 you specified did not match.")
        if asked is None and "x-amz-object-lock-mode" in request.headers and "uploads" not in request.query:
            return error(400, "InvalidRequest", "Object Lock parameters need Content-MD5 or a checksum.")
        return None

    def _store(self, request: Request, content: bytes) -> Reply:
        versions = self.buckets[request.bucket].setdefault(request.key, [])
        taken = bool(versions) and versions[-1].content is not None
        if taken and request.headers.get("if-none-match") == "*" and not self.breaks.conditions:
            return error(412, "PreconditionFailed", "At least one of the preconditions did not hold.")
        stored = sum(len(v.content or b"") for held in self.buckets.values() for vs in held.values() for v in vs)
        if self.capacity is not None and stored + len(content) > self.capacity:
            return error(507, "InsufficientStorage", "There is no room left.")
        version = Held(f"v{next(self._ids)}", content, _kept(request.headers))
        if not self.breaks.lock_headers and "x-amz-object-lock-mode" in request.headers:
            if request.bucket in self.unlocked:
                return error(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
            version.mode = request.headers["x-amz-object-lock-mode"]
            version.until = _date(request.headers["x-amz-object-lock-retain-until-date"])
            if version.until <= self.clock.now():
                return error(400, "InvalidArgument", "The retain until date must be in the future!")
        if self.breaks.encryption:
            version.headers.pop("x-amz-server-side-encryption", None)
        versions.append(version)
        return Reply(headers={"etag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"', **_id(version)})

    def _get(self, request: Request) -> Reply:
        version = self._find(request)
        if version is None or version.content is None:
            marker = {"x-amz-delete-marker": "true"} if version is not None else {}
            return error(404, "NoSuchKey", "The key does not exist.", marker)
        content = version.content[::-1] if self.breaks.content else version.content
        headers = {**version.headers, **_id(version), "content-length": str(len(content))}
        if version.until is not None:
            headers["x-amz-object-lock-mode"] = version.mode
            headers["x-amz-object-lock-retain-until-date"] = f"{version.until:%Y-%m-%dT%H:%M:%SZ}"
        if version.hold:
            headers["x-amz-object-lock-legal-hold"] = "ON"
        return Reply(200, content, headers)

    def _delete(self, request: Request) -> Reply:
        if self.breaks.deletes:
            return error(403, "AccessDenied", "Not allowed.")
        versions = self.buckets[request.bucket].get(request.key, [])
        if "versionId" not in request.query:
            if versions:
                versions.append(Held(f"v{next(self._ids)}", None, {}))
            return Reply(204)
        version = self._find(request)
        if version is None:
            return Reply(204)
        if self._locked(version) and not self._lets(request):
            return error(403, "AccessDenied", "Access Denied because object protected by object lock.")
        versions.remove(version)
        if not versions:
            del self.buckets[request.bucket][request.key]
        return Reply(204)

    def _retain(self, request: Request) -> Reply:
        version = self._find(request)
        if version is None:
            return error(404, "NoSuchKey", "The key does not exist.")
        mode, until = _tag(request.body, "Mode"), _date(_tag(request.body, "RetainUntilDate"))
        if version.until is not None and until < version.until and not self._lets(request):
            return error(403, "AccessDenied", "Access Denied because object protected by object lock.")
        version.mode, version.until = mode, until
        return Reply()

    def _hold(self, request: Request) -> Reply:
        version = self._find(request)
        if version is None:
            return error(404, "NoSuchKey", "The key does not exist.")
        if not self.breaks.locks:
            version.hold = _tag(request.body, "Status") == "ON"
        return Reply()

    def _lock_of(self, request: Request) -> Reply:
        version = self._find(request)
        if version is None:
            return error(404, "NoSuchKey", "The key does not exist.")
        if "legal-hold" in request.query:
            return _xml("LegalHold", f"<Status>{'ON' if version.hold else 'OFF'}</Status>")
        if version.until is None:
            return error(404, "NoSuchObjectLockConfiguration", "The object has no lock.")
        until = f"{version.until:%Y-%m-%dT%H:%M:%SZ}"
        return _xml("Retention", f"<Mode>{version.mode}</Mode><RetainUntilDate>{until}</RetainUntilDate>")

    def _begin(self, request: Request) -> Reply:
        upload = f"u{next(self._ids)}"
        self.uploads[upload] = (request, {})
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")

    def _part(self, request: Request) -> Reply:
        begun = self.uploads.get(request.query["uploadId"])
        if begun is None:
            return error(404, "NoSuchUpload", "The upload does not exist.")
        if begun[0].headers.get("x-amz-checksum-algorithm") != "SHA256":
            return error(400, "InvalidRequest", "Checksum Type mismatch occurred.")
        wrong = self._checked(request)
        if wrong is not None:
            return wrong
        begun[1][int(request.query["partNumber"])] = request.body
        return Reply(headers={"etag": f'"{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"'})

    def _complete(self, request: Request) -> Reply:
        begun = self.uploads.pop(request.query["uploadId"], None)
        if begun is None:
            return error(404, "NoSuchUpload", "The upload does not exist.")
        first, parts = begun
        condition = {name: value for name, value in request.headers.items() if name == "if-none-match"}
        whole = Request("PUT", first.bucket, first.key, {}, {**first.headers, **condition}, b"")
        reply = self._store(whole, b"".join(parts[number] for number in sorted(parts)))
        if reply.status != 200:
            return reply
        return Reply(200, _xml("CompleteMultipartUploadResult", "<ETag>x</ETag>").body, reply.headers)

    def _abort(self, request: Request) -> Reply:
        self.uploads.pop(request.query["uploadId"], None)
        return Reply(204)

    def _find(self, request: Request) -> Held | None:
        versions = self.buckets[request.bucket].get(request.key, [])
        wanted = request.query.get("versionId")
        if wanted is None:
            return versions[-1] if versions else None
        return next((version for version in versions if version.id == wanted), None)

    def _lets(self, request: Request) -> bool:
        asked = request.headers.get("x-amz-bypass-governance-retention") == "true"
        return self.breaks.locks or (self.breaks.bypass and asked)

    def _locked(self, version: Held) -> bool:
        return version.hold or (version.until is not None and version.until > self.clock.now())


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    return Request(method, bucket, key, dict(parse_qsl(query, keep_blank_values=True)), headers, body)


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer that says what is wrong, as S3 does."""
    text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Reply(status, text.encode(), {"content-type": "application/xml", **(headers or {})})


def _xml(name: str, inner: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'
    return Reply(200, text.encode(), {"content-type": "application/xml"})


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that an object keeps."""
    names = ("content-type", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")
    return {name: value for name, value in headers.items() if name in names or name.startswith("x-amz-meta-")}


def _id(version: Held) -> dict[str, str]:
    return {"x-amz-version-id": version.id}


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _tag(body: bytes, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), body)
    return found[1].decode() if found else ""


def _date(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
