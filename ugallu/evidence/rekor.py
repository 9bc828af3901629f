"""The bodies of transparency-log entries, as the two generations of Rekor define them.

`hashedrekord` 0.0.2 (Rekor v2, and our embedded log) holds nothing that is not in the bundle: it is rebuilt and
compared byte for byte. `dsse` and `hashedrekord` 0.0.1 (Rekor v1) are read and compared field by field: the first holds
a hash of JSON that only its submitter had. `intoto` is not read: no current log takes it.
Source of the formats: github.com/sigstore/rekor-tiles and rekor; the order of keys is that of RFC 8785.
"""

import base64
import binascii
import hashlib
from typing import Any, Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence import keys, x509
from ugallu.evidence.dsse import pae
from ugallu.evidence.encoding import b64, refuse_doubles
from ugallu.evidence.ports import Envelope, LogEntry, PublicKey

KIND: Final = "hashedrekord"
VERSION: Final = "0.0.2"
DSSE: Final = "dsse"
V1: Final = "0.0.1"

_PEM_BYTES: Final = 32 << 10


class Signed(msgspec.Struct, frozen=True):
    """What an entry vouches for: a signature over bytes of this SHA-256, by a key or the key of a certificate (DER)."""

    digest: bytes
    signature: bytes
    key: PublicKey | None = None
    certificate: bytes = b""
    payload_digest: bytes = b""
    """SHA-256 of the payload, for an envelope."""

    @property
    def verifier(self) -> bytes:
        """The certificate, or the key, DER."""
        return self.key.spki if self.key is not None else self.certificate

    @property
    def spki(self) -> bytes:
        """The key, DER."""
        return self.key.spki if self.key is not None else x509.spki(x509.load(self.certificate))


class _Hash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    algorithm: str
    value: str


class _DsseSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signature: str
    verifier: str


class _DsseSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    envelope_hash: _Hash
    payload_hash: _Hash
    signatures: tuple[_DsseSignature, ...]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hash: _Hash


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    content: str


class _RecordSignature(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    content: str
    public_key: _Content


class _RecordSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: _Data
    signature: _RecordSignature


class _Body(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    api_version: str
    kind: str
    spec: msgspec.Raw


def signed_of(envelope: Envelope) -> Signed:
    """Return what an entry of this envelope vouches for."""
    return Signed(
        digest=hashlib.sha256(pae(envelope.payload_type, envelope.payload)).digest(),
        signature=envelope.signature,
        key=envelope.key,
        certificate=envelope.certificate,
        payload_digest=hashlib.sha256(envelope.payload).digest(),
    )


def body(envelope: Envelope) -> bytes:
    """Return the canonical body of the Rekor v2 entry for this envelope."""
    return _record(signed_of(envelope))


def check(entry: LogEntry, signed: Signed) -> None:
    """Raise `PermanentError` unless the entry holds exactly this signature over these bytes."""
    kind = entry.kind, entry.version
    if kind == (KIND, VERSION):
        held = entry.body == _record(signed)
    elif kind == (DSSE, V1) and signed.payload_digest:
        held = _holds_envelope(entry.body, signed)
    elif kind == (KIND, V1) and not signed.payload_digest:
        held = _holds_record(entry.body, signed)
    else:
        raise PermanentError(f"an entry of kind {entry.kind[:40]!r} {entry.version[:20]!r} is not read here")
    if not held:
        raise PermanentError("the entry does not hold this signature")


def promised(entry: LogEntry) -> bytes:
    """Return what a Rekor v1 signs as its promise: body, time, log and index, as RFC 8785 writes them."""
    return msgspec.json.encode(
        {
            "body": b64(entry.body),
            "integratedTime": entry.integrated_time,
            "logID": entry.log_id.hex(),
            "logIndex": entry.index,
        }
    )


def pem(signed: Signed) -> bytes:
    """Return the verifier as PEM, as Rekor v1 takes it."""
    label = "PUBLIC KEY" if signed.key is not None else "CERTIFICATE"
    text = b64(signed.verifier)
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()


def _record(signed: Signed) -> bytes:
    if signed.key is not None:
        verifier = {"publicKey": {"rawBytes": b64(signed.key.spki)}}
    else:
        verifier = {"x509Certificate": {"rawBytes": b64(signed.certificate)}}
    # Canonical as it stands: keys in order, values ASCII. Going over it once more would cost more than the rest.
    return msgspec.json.encode(
        {
            "apiVersion": VERSION,
            "kind": KIND,
            "spec": {
                "hashedRekordV002": {
                    "data": {"algorithm": "SHA2_256", "digest": b64(signed.digest)},
                    "signature": {
                        "content": b64(signed.signature),
                        "verifier": {"keyDetails": keys.details(signed.spki), **verifier},
                    },
                }
            },
        }
    )


def _holds_envelope(content: bytes, signed: Signed) -> bool:
    spec = _spec(content, DSSE, _DsseSpec)
    return (
        len(spec.signatures) == 1
        and spec.payload_hash == _Hash("sha256", signed.payload_digest.hex())
        and spec.envelope_hash.algorithm == "sha256"
        and spec.signatures[0].signature == b64(signed.signature)
        and _is_pem(spec.signatures[0].verifier, signed)
    )


def _holds_record(content: bytes, signed: Signed) -> bool:
    spec = _spec(content, KIND, _RecordSpec)
    return (
        spec.data.hash == _Hash("sha256", signed.digest.hex())
        and spec.signature.content == b64(signed.signature)
        and _is_pem(spec.signature.public_key.content, signed)
    )


def _spec(content: bytes, kind: str, shape: type[Any]) -> Any:  # noqa: ANN401 - one of the two specs
    try:
        read = msgspec.json.decode(content, type=_Body)
        refuse_doubles(content, "log entry")
        if (read.kind, read.api_version) != (kind, V1):
            raise PermanentError("the entry is of another kind than the bundle says")
        return msgspec.json.decode(read.spec, type=shape)
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"cannot be read: {error}", where="log entry") from error


def _is_pem(text: str, signed: Signed) -> bool:
    """Tell whether this is the signer's key or certificate, as base64 of PEM."""
    label = b"PUBLIC KEY" if signed.key is not None else b"CERTIFICATE"
    try:
        content = base64.b64decode(text[:_PEM_BYTES], validate=True).strip()
        head, _, rest = content.partition(b"\n")
        inner, _, tail = rest.rpartition(b"\n")
        der = base64.b64decode(b"".join(inner.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return (head, tail, der) == (b"-----BEGIN %b-----" % label, b"-----END %b-----" % label, signed.verifier)
