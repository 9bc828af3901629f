"""Sigstore bundles: what was signed, the key or certificate that signed it, its log entry and timestamps.

Written as v0.3, over an envelope. Read also as v0.1 and v0.2, and over the digest of a bare file: others made those.

Source of the format: github.com/sigstore/protobuf-specs, `sigstore_bundle.proto`, as proto3 JSON. Verifiers refuse
unknown fields, and so do we. Reading is strict and bounded; it checks shape only, `verify.py` checks truth.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.encoding import b64, int64, refuse_doubles, unb64
from ugallu.evidence.ports import BUNDLE_MEDIA_TYPE, Envelope, LogEntry

MAX_BYTES: Final = 8 << 20
MAX_PAYLOAD: Final = 4 << 20
MAX_SIGNATURE: Final = 1 << 10
MAX_CERTIFICATE: Final = 16 << 10
MAX_CHAIN: Final = 8
MAX_BODY: Final = 1 << 20
MAX_HASHES: Final = 64
MAX_ENTRIES: Final = 8
MAX_TIMESTAMPS: Final = 32

_OLD: Final = frozenset(f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (1, 2))
_MEDIA_TYPES: Final = _OLD | {BUNDLE_MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3"}


class Message(msgspec.Struct, frozen=True):
    """A bare file that was signed: the SHA-256 that the bundle says it has, and the signature over the file."""

    digest: bytes
    signature: bytes


class Bundle(msgspec.Struct, frozen=True):
    """A parsed bundle. `hint` names the key of a key bundle; the key itself is not in the bundle."""

    signed: Envelope | Message
    entries: tuple[LogEntry, ...]
    hint: str = ""
    certificate: bytes = b""
    """DER of the signer's certificate; exactly one of it and `hint` is there."""
    chain: tuple[bytes, ...] = ()
    """What stands behind it in an old bundle, DER; nothing is proven by it."""
    timestamps: tuple[bytes, ...] = ()

    @property
    def envelope(self) -> Envelope:
        """The envelope; raises `PermanentError` for a bundle over a bare file."""
        if isinstance(self.signed, Envelope):
            return self.signed
        raise PermanentError("signs a bare file (messageSignature), not a statement", where="bundle")


class _Part(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A message of the format: camel case, nothing unknown."""


class _PublicKey(_Part, frozen=True):
    hint: str


class _Certificate(_Part, frozen=True):
    raw_bytes: str


class _Chain(_Part, frozen=True):
    certificates: tuple[_Certificate, ...] = ()


class _LogId(_Part, frozen=True):
    key_id: str


class _KindVersion(_Part, frozen=True):
    kind: str
    version: str


class _Promise(_Part, frozen=True):
    signed_entry_timestamp: str


class _Checkpoint(_Part, frozen=True):
    envelope: str


class _Proof(_Part, frozen=True):
    root_hash: str
    tree_size: str | int
    checkpoint: _Checkpoint
    log_index: str | int = 0
    hashes: tuple[str, ...] = ()


class _Entry(_Part, frozen=True):
    log_id: _LogId
    kind_version: _KindVersion
    inclusion_proof: _Proof
    canonicalized_body: str
    log_index: str | int = 0
    integrated_time: str | int = 0
    inclusion_promise: _Promise | None = None


class _Timestamp(_Part, frozen=True):
    signed_timestamp: str


class _Timestamps(_Part, frozen=True):
    rfc3161_timestamps: tuple[_Timestamp, ...] = msgspec.field(name="rfc3161Timestamps", default=())


class _Material(_Part, frozen=True):
    public_key: _PublicKey | None = None
    certificate: _Certificate | None = None
    x509_certificate_chain: _Chain | None = None
    tlog_entries: tuple[_Entry, ...] = ()
    timestamp_verification_data: _Timestamps | None = None


class _Signature(_Part, frozen=True):
    sig: str
    keyid: str = ""


class _Envelope(_Part, frozen=True):
    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


class _Digest(_Part, frozen=True):
    algorithm: str
    digest: str


class _Message(_Part, frozen=True):
    message_digest: _Digest
    signature: str


class _Bundle(_Part, frozen=True):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope | None = None
    message_signature: _Message | None = None


def write(envelope: Envelope, entry: LogEntry | None, timestamps: Sequence[bytes] = ()) -> bytes:
    """Return the bundle as JSON.

    `logIndex` and `hashes` are always written: sigstore-python refuses a bundle that leaves out their zero values.
    A key bundle carries no `keyid`: cosign would not find the signature.
    """
    material: dict[str, Any] = {}
    if envelope.key is not None:
        material["publicKey"] = {"hint": envelope.key.hint}
    else:
        material["certificate"] = {"rawBytes": b64(envelope.certificate)}
    material["tlogEntries"] = [] if entry is None else [_entry_json(entry)]
    if timestamps:
        stamps = [{"signedTimestamp": b64(one)} for one in timestamps]
        material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
    return msgspec.json.encode(
        {
            "mediaType": BUNDLE_MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": envelope_json(envelope),
        }
    )


def envelope_json(envelope: Envelope) -> dict[str, Any]:
    """Return the DSSE envelope as JSON."""
    return {
        "payload": b64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"sig": b64(envelope.signature)}],
    }


def read(content: bytes) -> Bundle:
    """Parse a bundle; raises `PermanentError` that says what does not fit."""
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where="bundle")
    try:
        raw = msgspec.json.decode(content, type=_Bundle)
        refuse_doubles(content, "bundle")
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise PermanentError(str(error), where="bundle") from error
    if raw.media_type not in _MEDIA_TYPES:
        raise PermanentError(f"media type {raw.media_type[:80]!r} is not that of a v0.3 bundle", where="bundle")
    material = raw.verification_material
    if len(material.tlog_entries) > MAX_ENTRIES:
        raise PermanentError(f"more than {MAX_ENTRIES} log entries", where="bundle")
    stamps = material.timestamp_verification_data
    timestamps = stamps.rfc3161_timestamps if stamps is not None else ()
    if len(timestamps) > MAX_TIMESTAMPS:
        raise PermanentError(f"more than {MAX_TIMESTAMPS} timestamps", where="bundle")
    certificate = _certificate(material, old=raw.media_type in _OLD)
    return Bundle(
        signed=_signed(raw, certificate),
        entries=tuple(_entry(entry) for entry in material.tlog_entries),
        hint=material.public_key.hint if material.public_key is not None else "",
        certificate=certificate,
        chain=_chain(material),
        timestamps=tuple(unb64(t.signed_timestamp, "bundle: timestamp", limit=MAX_CERTIFICATE) for t in timestamps),
    )


def read_entry(content: bytes) -> LogEntry:
    """Parse a log entry alone, as a Rekor v2 answers with it; raises `PermanentError` that says what does not fit."""
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where="log entry")
    try:
        return _entry(msgspec.json.decode(content, type=_Entry))
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="log entry") from error


def _certificate(material: _Material, *, old: bool) -> bytes:
    """Return the signer's certificate, empty for a key bundle: there is one of the two, where its version has it."""
    chain = material.x509_certificate_chain
    if sum(one is not None for one in (material.public_key, material.certificate, chain)) != 1:
        raise PermanentError("exactly one of publicKey and certificate is needed", where="bundle")
    if (chain is not None) is not old:
        raise PermanentError("a certificate chain belongs in bundles before v0.3, and only there", where="bundle")
    found = material.certificate
    if chain is not None:
        # The leaf; what issued it is the reader's to know.
        if not chain.certificates:
            raise PermanentError("an empty certificate chain", where="bundle")
        found = chain.certificates[0]
    if found is None:
        return b""
    certificate = unb64(found.raw_bytes, "bundle: certificate", limit=MAX_CERTIFICATE)
    if not certificate:
        raise PermanentError("an empty certificate", where="bundle")
    return certificate


def _chain(material: _Material) -> tuple[bytes, ...]:
    behind = material.x509_certificate_chain.certificates[1:] if material.x509_certificate_chain is not None else ()
    if len(behind) > MAX_CHAIN:
        raise PermanentError(f"more than {MAX_CHAIN} certificates behind the signer's", where="bundle")
    return tuple(unb64(one.raw_bytes, "bundle: certificate", limit=MAX_CERTIFICATE) for one in behind)


def _signed(raw: _Bundle, certificate: bytes) -> Envelope | Message:
    envelope, message = raw.dsse_envelope, raw.message_signature
    if envelope is None and message is not None:
        if message.message_digest.algorithm != "SHA2_256":
            raise PermanentError("a digest other than SHA2_256", where="bundle")
        return Message(
            digest=unb64(message.message_digest.digest, "bundle: digest", limit=32, size=32),
            signature=unb64(message.signature, "bundle: signature", limit=MAX_SIGNATURE),
        )
    if envelope is None or message is not None:
        raise PermanentError("exactly one of dsseEnvelope and messageSignature is needed", where="bundle")
    if len(envelope.signatures) != 1:
        raise PermanentError("exactly one signature is allowed", where="bundle")
    (signature,) = envelope.signatures
    if signature.keyid:
        # cosign looks for a key of that id, and has none.
        raise PermanentError("the signature of a bundle carries no keyid", where="bundle")
    return Envelope(
        payload_type=envelope.payload_type,
        payload=unb64(envelope.payload, "bundle: payload", limit=MAX_PAYLOAD),
        signature=unb64(signature.sig, "bundle: signature", limit=MAX_SIGNATURE),
        certificate=certificate,
    )


def _entry(raw: _Entry) -> LogEntry:
    proof = raw.inclusion_proof
    if len(proof.hashes) > MAX_HASHES:
        raise PermanentError(f"more than {MAX_HASHES} proof hashes", where="bundle")
    index = int64(raw.log_index, "bundle: logIndex")
    if raw.kind_version == _KindVersion("hashedrekord", "0.0.2") and index != int64(
        proof.log_index, "bundle: inclusionProof.logIndex"
    ):
        # Only a log of shards (Rekor v1) has two indexes.
        raise PermanentError("logIndex differs from that of the proof", where="bundle")
    promise = b""
    if raw.inclusion_promise is not None:
        promise = unb64(raw.inclusion_promise.signed_entry_timestamp, "bundle: promise", limit=MAX_SIGNATURE)
    return LogEntry(
        log_id=unb64(raw.log_id.key_id, "bundle: log id", limit=32, size=32),
        log_index=int64(proof.log_index, "bundle: inclusionProof.logIndex"),
        kind=raw.kind_version.kind,
        version=raw.kind_version.version,
        body=unb64(raw.canonicalized_body, "bundle: log entry", limit=MAX_BODY),
        tree_size=int64(proof.tree_size, "bundle: treeSize"),
        root_hash=unb64(proof.root_hash, "bundle: rootHash", limit=32, size=32),
        hashes=tuple(unb64(text, "bundle: proof hash", limit=32, size=32) for text in proof.hashes),
        checkpoint=proof.checkpoint.envelope,
        integrated_time=int64(raw.integrated_time, "bundle: integratedTime"),
        promise=promise,
        global_index=index if index != int64(proof.log_index, "bundle: inclusionProof.logIndex") else -1,
    )


def _entry_json(entry: LogEntry) -> dict[str, Any]:
    written: dict[str, Any] = {
        "logIndex": str(entry.index),
        "logId": {"keyId": b64(entry.log_id)},
        "kindVersion": {"kind": entry.kind, "version": entry.version},
    }
    if entry.integrated_time:
        written["integratedTime"] = str(entry.integrated_time)
    if entry.promise:
        written["inclusionPromise"] = {"signedEntryTimestamp": b64(entry.promise)}
    written["inclusionProof"] = {
        "logIndex": str(entry.log_index),
        "rootHash": b64(entry.root_hash),
        "treeSize": str(entry.tree_size),
        "hashes": [b64(value) for value in entry.hashes],
        "checkpoint": {"envelope": entry.checkpoint},
    }
    written["canonicalizedBody"] = b64(entry.body)
    return written
