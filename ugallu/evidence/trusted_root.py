"""The trusted root: which logs and authorities, under which keys and from when to when, a verifier believes.

Source of the format: protobuf-specs `sigstore_trustroot.proto`, version 0.1, the one that all verifiers read. Keys of
signers are not part of it: a verifier is given them separately.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.encoding import b64, refuse_doubles, unb64

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
MAX_BYTES: Final = 1 << 20
MAX_LOGS: Final = 64
MAX_CHAIN: Final = 8
_LISTS: Final = ("tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities")


class LogKey(msgspec.Struct, frozen=True):
    """One log: the origin of its checkpoints, its key, and when the key counts (`end` None: still)."""

    log_id: bytes
    origin: str
    spki: bytes
    key_details: str
    start: dt.datetime
    end: dt.datetime | None = None
    url: str = ""
    """Where the log says that it is."""

    def counts_at(self, at: dt.datetime) -> bool:
        """Tell whether the key counts at that time, both ends included."""
        return _within(at, self.start, self.end)


class Authority(msgspec.Struct, frozen=True):
    """One certificate authority or timestamp authority: its chain (DER, the root last), and when it counts."""

    chain: tuple[bytes, ...]
    start: dt.datetime
    end: dt.datetime | None = None
    uri: str = ""

    def counts_at(self, at: dt.datetime) -> bool:
        """Tell whether the authority counts at that time, both ends included."""
        return _within(at, self.start, self.end)


class TrustedRoot(msgspec.Struct, frozen=True):
    """What a verifier believes: logs of signatures and of certificates, by log id, and authorities."""

    logs: dict[bytes, LogKey]
    certificate_logs: dict[bytes, LogKey] = {}
    authorities: tuple[Authority, ...] = ()
    """Who certifies signers."""
    timestamp_authorities: tuple[Authority, ...] = ()
    """Who signs times; their chains begin with the certificate that does."""


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
    operator: str | None = None


class _Raw(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    raw_bytes: str


class _Chain(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    certificates: tuple[_Raw, ...]


class _Subject(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    organization: str = ""
    common_name: str = ""


class _Authority(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    cert_chain: _Chain
    valid_for: _Validity
    subject: _Subject | None = None
    uri: str = ""
    operator: str | None = None


class _Root(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    media_type: str
    tlogs: tuple[_Log, ...] = ()
    certificate_authorities: tuple[_Authority, ...] = ()
    ctlogs: tuple[_Log, ...] = ()
    timestamp_authorities: tuple[_Authority, ...] = ()


def write(
    logs: Sequence[dict[str, Any]],
    *,
    authorities: Sequence[dict[str, Any]] = (),
    certificate_logs: Sequence[dict[str, Any]] = (),
    timestamp_authorities: Sequence[dict[str, Any]] = (),
) -> bytes:
    """Return a trusted root of these elements of `tlogs`, `certificateAuthorities`, `ctlogs`, `timestampAuthorities`.

    The lists it does not fill are written empty: sigstore-python demands the key `ctlogs`.
    """
    root = {
        "mediaType": MEDIA_TYPE,
        "tlogs": list(logs),
        "certificateAuthorities": list(authorities),
        "ctlogs": list(certificate_logs),
        "timestampAuthorities": list(timestamp_authorities),
    }
    return msgspec.json.format(msgspec.json.encode(root), indent=2) + b"\n"


def joined(contents: Sequence[bytes]) -> bytes:
    """Return one trusted root that believes what each of these does; of two words on one log the first counts.

    Raises `PermanentError` for one that `read` refuses.
    """
    lists: dict[str, dict[str, Any]] = {name: {} for name in _LISTS}
    for content in contents:
        read(content)
        root = msgspec.json.decode(content)
        for name, into in lists.items():
            for one in root.get(name) or ():
                # A field of version 0.2, which stock verifiers of today refuse.
                one.pop("operator", None)
                into.setdefault(one["logId"]["keyId"] if "logId" in one else repr(one["certChain"]), one)
    return write(
        list(lists["tlogs"].values()),
        authorities=list(lists["certificateAuthorities"].values()),
        certificate_logs=list(lists["ctlogs"].values()),
        timestamp_authorities=list(lists["timestampAuthorities"].values()),
    )


def element(log: LogKey) -> dict[str, object]:
    """Return the `tlogs[]` element of a log."""
    validity = {"start": _time(log.start)} | ({"end": _time(log.end)} if log.end is not None else {})
    return {
        "baseUrl": log.url or f"https://{log.origin}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(log.spki), "keyDetails": log.key_details, "validFor": validity},
        "logId": {"keyId": b64(log.log_id)},
    }


def id_of(log: Mapping[str, object]) -> bytes:
    """Return the id of the log that a `tlogs[]` element is about, as `element` writes it."""
    named = log["logId"]
    assert isinstance(named, dict)
    return unb64(named["keyId"], "trusted root", limit=64)


def _time(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def read(content: bytes) -> TrustedRoot:
    """Parse a trusted root; raises `PermanentError` that says what does not fit."""
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where="trusted root")
    refuse_doubles(content, "trusted root")
    try:
        raw = msgspec.json.decode(content, type=_Root)
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="trusted root") from error
    if raw.media_type != MEDIA_TYPE:
        raise PermanentError(f"media type {raw.media_type[:80]!r} is not {MEDIA_TYPE}", where="trusted root")
    if max(map(len, (raw.tlogs, raw.ctlogs, raw.certificate_authorities, raw.timestamp_authorities))) > MAX_LOGS:
        raise PermanentError(f"more than {MAX_LOGS} logs or authorities", where="trusted root")
    return TrustedRoot(
        logs=_logs(raw.tlogs),
        certificate_logs=_logs(raw.ctlogs),
        authorities=tuple(map(_authority, raw.certificate_authorities)),
        timestamp_authorities=tuple(map(_authority, raw.timestamp_authorities)),
    )


def _within(at: dt.datetime, start: dt.datetime, end: dt.datetime | None) -> bool:
    return start <= at and (end is None or at <= end)


def _logs(raw: Sequence[_Log]) -> dict[bytes, LogKey]:
    logs: dict[bytes, LogKey] = {}
    for log in raw:
        key = _log(log)
        if key.log_id in logs:
            raise PermanentError("two logs share one id", where="trusted root")
        logs[key.log_id] = key
    return logs


def _authority(raw: _Authority) -> Authority:
    chain = raw.cert_chain.certificates
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise PermanentError(f"a chain of {len(chain)} certificates", where="trusted root")
    start, end = _times(raw.valid_for)
    return Authority(
        chain=tuple(unb64(one.raw_bytes, "trusted root: certificate", limit=16 << 10) for one in chain),
        start=start,
        end=end,
        uri=raw.uri,
    )


def _times(valid: _Validity) -> tuple[dt.datetime, dt.datetime | None]:
    for at in (valid.start, valid.end):
        if at is not None and at.tzinfo is None:
            raise PermanentError("a time without its zone", where="trusted root")
    return valid.start, valid.end


def _log(raw: _Log) -> LogKey:
    if raw.hash_algorithm != "SHA2_256":
        raise PermanentError(f"hash algorithm {raw.hash_algorithm[:40]!r} is not SHA2_256", where="trusted root")
    try:
        url = urlsplit(raw.base_url)
    except ValueError as error:
        raise PermanentError("a log's baseUrl is no URL", where="trusted root") from error
    if not url.scheme or not url.hostname:
        raise PermanentError("a log's baseUrl has no scheme and host", where="trusted root")
    start, end = _times(raw.public_key.valid_for)
    return LogKey(
        log_id=unb64(raw.log_id.key_id, "trusted root: log id", limit=32, size=32),
        # A checkpoint names the host alone, whatever the port.
        origin=url.hostname + url.path.rstrip("/"),
        spki=unb64(raw.public_key.raw_bytes, "trusted root: log key", limit=4096),
        key_details=raw.public_key.key_details,
        url=raw.base_url,
        start=start,
        end=end,
    )
