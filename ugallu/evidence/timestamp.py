"""RFC 3161: a time that an authority signed. Requests are written, replies read and checked; no I/O.

What is stamped is the raw signature of an envelope. A reply is kept whole (`TimeStampResp`, DER), as bundles carry it.
Source of the formats: RFC 3161 (requests, replies), RFC 5652 (signed data), RFC 5035 (which certificate signed).
"""

import datetime as dt
import hashlib
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence import der, keys, x509
from ugallu.evidence.trusted_root import Authority

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MAX_BYTES: Final = 16 << 10
REQUEST: Final = "application/timestamp-query"
REPLY: Final = "application/timestamp-reply"

_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE: Final = "1.2.840.113549.1.9.16.2.47"
_SHA256: Final = "2.16.840.1.101.3.4.2.1"
_HASHES: Final = {_SHA256: "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
_SIGNATURES: Final = {
    # Algorithm of the signature -> hash that it names, if it names one.
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
    "1.2.840.113549.1.1.1": "",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.3.101.112": "",
}
_PART_0: Final = 0xA0
_GRANTED: Final = (0, 1)
"""Granted, and granted with changes that the reply shows."""


class Token(msgspec.Struct, frozen=True):
    """What a reply says, and what is needed to check who said it."""

    imprint: bytes
    algorithm: str
    time: dt.datetime
    nonce: int | None
    content: bytes
    """The signed statement (`TSTInfo`), DER."""
    attributes: bytes
    """What the signature covers, DER: a SET."""
    digest_algorithm: str
    signature: bytes
    signer: bytes
    """Issuer and serial number of the signer's certificate, DER."""
    certificate_digests: tuple[tuple[str, bytes], ...]
    """Which certificate the signer says that it used: hash and digest."""
    certificates: tuple[bytes, ...] = ()
    """What came with it, DER; nothing is proven by them."""


def request(signature: bytes, nonce: int) -> bytes:
    """Return a request to stamp this signature, with SHA-256 and the authority's certificates."""
    imprint = der.write(
        der.SEQUENCE,
        der.write(der.SEQUENCE, der.write_oid(_SHA256), der.write(der.NULL)),
        der.write(der.OCTETS, hashlib.sha256(signature).digest()),
    )
    return der.write(
        der.SEQUENCE,
        der.write_integer(1),
        imprint,
        der.write_integer(nonce),
        der.write(der.BOOLEAN, b"\xff"),
    )


def read(reply: bytes) -> Token:
    """Parse a reply; raises `PermanentError` for a refusal, and for anything that is not one signed statement."""
    if len(reply) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where="timestamp")
    try:
        return _reply(der.read(reply))
    except (IndexError, ValueError) as error:
        raise PermanentError("a part is missing", where="timestamp") from error


def check(reply: bytes, signature: bytes, authorities: Iterable[Authority]) -> dt.datetime:
    """Return the time that an authority whom the reader trusts signed for this signature; raises `PermanentError`."""
    return checked(reply, signature, authorities)[1]


def checked(reply: bytes, signature: bytes, authorities: Iterable[Authority]) -> tuple[bytes, dt.datetime]:
    """Return which authority it was as well, by the key (SPKI, DER) that it signs with; else as `check`."""
    token = read(reply)
    stamped = hashlib.new(_HASHES[token.algorithm], signature).digest()
    if not hmac.compare_digest(stamped, token.imprint):
        raise PermanentError("a timestamp of another signature", where="timestamp")
    reason = "of an authority that the reader does not trust"
    for authority in authorities:
        leaf, *chain = [x509.load(one, "timestamp authority") for one in authority.chain]
        if token.signer != _named(leaf) or not _is_named(leaf, token):
            continue
        if not authority.counts_at(token.time):
            reason = "the authority did not count at the time that it claims"
            continue
        x509.check_leaf(leaf, x509.TIME_STAMPING, only=True)
        x509.check_chain(leaf, chain, token.time, x509.TIME_STAMPING)
        # Unsigned, and so only good if they say what is known anyway: no byte of a token is there in vain.
        if any(one not in authority.chain for one in token.certificates):
            raise PermanentError("it carries certificates that are none of the authority's", where="timestamp")
        if not keys.verifies(
            x509.spki(leaf), token.signature, token.attributes, digest=_HASHES[token.digest_algorithm]
        ):
            raise PermanentError("the signature does not hold under the authority's key", where="timestamp")
        return x509.spki(leaf), token.time
    raise PermanentError(reason, where="timestamp")


def _reply(reply: der.Value) -> Token:
    status, *rest = reply.of(der.SEQUENCE).parts
    said = status.of(der.SEQUENCE).parts[0].integer
    if said not in _GRANTED:
        raise PermanentError(f"the authority refused with status {said}", where="timestamp")
    (token,) = rest
    kind, wrapped = token.of(der.SEQUENCE).parts
    if kind.oid != _SIGNED_DATA:
        raise PermanentError("not signed data", where="timestamp")
    (signed,) = wrapped.of(_PART_0).parts
    return _signed_data(signed.of(der.SEQUENCE))


def _signed_data(signed: der.Value) -> Token:
    version, algorithms, encapsulated, *rest = signed.parts
    kind, wrapped = encapsulated.of(der.SEQUENCE).parts
    if version.integer != 3 or kind.oid != _TST_INFO:
        raise PermanentError("not a timestamp", where="timestamp")
    (octets,) = wrapped.of(_PART_0).parts
    content = octets.of(der.OCTETS).content
    if [one.tag for one in rest[:-1]] not in ([], [_PART_0]):
        raise PermanentError("a part besides certificates and signer", where="timestamp")
    (signer,) = rest[-1].of(der.SET).parts
    token = _signer(signer.of(der.SEQUENCE), content)
    if token.digest_algorithm not in [_hash(one) for one in algorithms.of(der.SET).parts]:
        raise PermanentError("the signer's hash is none of those named", where="timestamp")
    carried = tuple(one.raw for one in rest[0].parts) if len(rest) == 2 else ()
    return msgspec.structs.replace(token, certificates=carried)


def _signer(signer: der.Value, content: bytes) -> Token:
    version, name, digest, attributes, signing, signature = signer.parts
    algorithm = _hash(digest)
    _check_signing(signing, _HASHES[algorithm])
    if version.integer != 1 or attributes.tag != _PART_0:
        raise PermanentError("a signer that is not named as RFC 3161 has it", where="timestamp")
    found: dict[str, der.Value] = {}
    for attribute in attributes.parts:
        kind, values = attribute.of(der.SEQUENCE).parts
        (value,) = values.of(der.SET).parts
        if found.setdefault(kind.oid, value) is not value:
            raise PermanentError("an attribute stands twice", where="timestamp")
    if _CONTENT_TYPE not in found or found[_CONTENT_TYPE].oid != _TST_INFO:
        raise PermanentError("the signature is over something else", where="timestamp")
    digested = hashlib.new(_HASHES[algorithm], content).digest()
    if _MESSAGE_DIGEST not in found or found[_MESSAGE_DIGEST].of(der.OCTETS).content != digested:
        raise PermanentError("the signature is over another statement", where="timestamp")
    imprint_algorithm, imprint, time, nonce = _statement(der.read(content))
    return Token(
        imprint=imprint,
        algorithm=imprint_algorithm,
        time=time,
        nonce=nonce,
        content=content,
        # Signed as a SET, carried as a part of the whole (RFC 5652 5.4).
        attributes=bytes((der.SET,)) + attributes.raw[1:],
        digest_algorithm=algorithm,
        signature=signature.of(der.OCTETS).content,
        signer=name.of(der.SEQUENCE).raw,
        certificate_digests=_certificates(found.get(_SIGNING_CERTIFICATE)),
    )


def _statement(info: der.Value) -> tuple[str, bytes, dt.datetime, int | None]:
    version, _, imprint, _, time, *rest = info.of(der.SEQUENCE).parts
    if version.integer != 1:
        raise PermanentError("another version of timestamps", where="timestamp")
    algorithm, digest = imprint.of(der.SEQUENCE).parts
    nonce = next((part.integer for part in rest if part.tag == der.INTEGER), None)
    return _hash(algorithm), digest.of(der.OCTETS).content, time.time, nonce


def _hash(algorithm: der.Value) -> str:
    name, *parameters = algorithm.of(der.SEQUENCE).parts
    if name.oid not in _HASHES or any(part.tag != der.NULL or part.content for part in parameters):
        raise PermanentError("a hash that nobody here knows", where="timestamp")
    return name.oid


def _check_signing(algorithm: der.Value, digest: str) -> None:
    name, *parameters = algorithm.of(der.SEQUENCE).parts
    if name.oid not in _SIGNATURES or any(part.tag != der.NULL or part.content for part in parameters):
        raise PermanentError("a signature of a kind that nobody here knows", where="timestamp")
    if _SIGNATURES[name.oid] not in ("", digest):
        raise PermanentError("two hashes for one signature", where="timestamp")


def _certificates(attribute: der.Value | None) -> tuple[tuple[str, bytes], ...]:
    """Return hashes of the signer's certificates (SigningCertificateV2); the first is its own."""
    if attribute is None:
        return ()
    found = []
    for one in attribute.of(der.SEQUENCE).parts[0].of(der.SEQUENCE).parts:
        first, *rest = one.of(der.SEQUENCE).parts
        if first.tag == der.SEQUENCE:
            found.append((_hash(first), rest[0].of(der.OCTETS).content))
        else:
            found.append((_SHA256, first.of(der.OCTETS).content))
    return tuple(found)


def _named(leaf: "Certificate") -> bytes:
    return der.write(der.SEQUENCE, leaf.issuer.public_bytes(), der.write_integer(leaf.serial_number))


def _is_named(leaf: "Certificate", token: Token) -> bool:
    from cryptography.hazmat.primitives.serialization import Encoding

    if not token.certificate_digests:
        return True
    algorithm, digest = token.certificate_digests[0]
    return hmac.compare_digest(hashlib.new(_HASHES[algorithm], leaf.public_bytes(Encoding.DER)).digest(), digest)
