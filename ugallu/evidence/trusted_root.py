"""The trusted root: which logs, under which keys, a verifier believes.

Source of the format: protobuf-specs `sigstore_trustroot.proto`, version 0.1, the one that all verifiers read. Keys of
signers are not part of it: a verifier is given them separately.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.encoding import unb64

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
MAX_BYTES: Final = 1 << 20
MAX_LOGS: Final = 64


class LogKey(msgspec.Struct, frozen=True):
    """One log: the origin of its checkpoints, its key, and when the key counts (`end` None: still)."""

    log_id: bytes
    origin: str
    spki: bytes
    key_details: str
    start: dt.datetime
    end: dt.datetime | None = None


class TrustedRoot(msgspec.Struct, frozen=True):
    """The logs that a verifier believes, by log id."""

    logs: dict[bytes, LogKey]


class _Validity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    start: dt.datetime
    end: dt.datetime | None = None


class _Key(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    raw_bytes: str
    key_details: str
    valid_for: _Validity


class _LogId(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    key_id: str


class _Log(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    base_url: str
    hash_algorithm: str
    public_key: _Key
    log_id: _LogId
    checkpoint_key_id: _LogId | None = None


class _Root(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    media_type: str
    tlogs: tuple[_Log, ...] = ()
    certificate_authorities: tuple[msgspec.Raw, ...] = ()
    ctlogs: tuple[msgspec.Raw, ...] = ()
    timestamp_authorities: tuple[msgspec.Raw, ...] = ()


def write(logs: Sequence[dict[str, Any]]) -> bytes:
    """Return a trusted root of these `tlogs[]` elements.

    The lists it does not fill are written empty: sigstore-python demands the key `ctlogs`.
    """
    root = {
        "mediaType": MEDIA_TYPE,
        "tlogs": list(logs),
        "certificateAuthorities": [],
        "ctlogs": [],
        "timestampAuthorities": [],
    }
    return msgspec.json.format(msgspec.json.encode(root), indent=2) + b"\n"


def read(content: bytes) -> TrustedRoot:
    """Parse a trusted root; raises `PermanentError` that says what does not fit."""
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where="trusted root")
    try:
        raw = msgspec.json.decode(content, type=_Root)
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="trusted root") from error
    if raw.media_type != MEDIA_TYPE:
        raise PermanentError(f"media type {raw.media_type[:80]!r} is not {MEDIA_TYPE}", where="trusted root")
    if len(raw.tlogs) > MAX_LOGS:
        raise PermanentError(f"more than {MAX_LOGS} logs", where="trusted root")
    logs: dict[bytes, LogKey] = {}
    for log in raw.tlogs:
        key = _log(log)
        if key.log_id in logs:
            raise PermanentError("two logs share one id", where="trusted root")
        logs[key.log_id] = key
    return TrustedRoot(logs)


def _log(raw: _Log) -> LogKey:
    if raw.hash_algorithm != "SHA2_256":
        raise PermanentError(f"hash algorithm {raw.hash_algorithm[:40]!r} is not SHA2_256", where="trusted root")
    url = urlsplit(raw.base_url)
    if not url.scheme or not url.netloc:
        raise PermanentError("a log's baseUrl has no scheme and host", where="trusted root")
    return LogKey(
        log_id=unb64(raw.log_id.key_id, "trusted root: log id", limit=32, size=32),
        origin=url.netloc + url.path.rstrip("/"),
        spki=unb64(raw.public_key.raw_bytes, "trusted root: log key", limit=4096),
        key_details=raw.public_key.key_details,
        start=raw.public_key.valid_for.start,
        end=raw.public_key.valid_for.end,
    )
