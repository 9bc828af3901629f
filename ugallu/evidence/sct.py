"""Signed certificate timestamps: a CT log's promise, inside a certificate, that it took the certificate.

Source of the format: RFC 6962 3.2 and 3.3; the certificate was logged as a precertificate.
"""

import datetime as dt
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ugallu.errors import PermanentError
from ugallu.evidence import keys
from ugallu.evidence.trusted_root import LogKey
from ugallu.evidence.x509 import spki

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509.certificate_transparency import SignedCertificateTimestamp

MAX_SCTS: Final = 16
_PRECERTIFICATE: Final = 1


def check(leaf: "x509.Certificate", issuer: "x509.Certificate", logs: Mapping[bytes, LogKey]) -> LogKey:
    """Return the log that promised to have this certificate; raises `PermanentError` when none that is trusted did.

    There must be one promise: with a second one, sigstore-python and @sigstore/verify refuse the certificate.
    """
    promises = list(_embedded(leaf))
    if len(promises) != 1:
        count = f"{len(promises)} promises of certificate logs in it, instead of one"
        raise PermanentError(count if promises else "no promise of a certificate log in it", where="certificate")
    (found,) = promises
    log = logs.get(found.log_id)
    if log is None:
        raise PermanentError("no promise of a certificate log that the reader trusts", where="certificate")
    if not log.counts_at(_time(found)):
        raise PermanentError("the log's key did not count when it promised", where="certificate")
    if not keys.verifies(log.spki, found.signature, _signed(found, leaf, issuer)):
        raise PermanentError("the promise does not hold under the log's key", where="certificate")
    return log


def _embedded(leaf: "x509.Certificate") -> Iterator["SignedCertificateTimestamp"]:
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    except x509.ExtensionNotFound:
        return
    if len(found) > MAX_SCTS:
        raise PermanentError(f"more than {MAX_SCTS} promises of certificate logs", where="certificate")
    yield from found


def _time(found: "SignedCertificateTimestamp") -> dt.datetime:
    try:
        return found.timestamp.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError) as error:
        raise PermanentError("a promise at a time that does not exist", where="certificate") from error


def _signed(found: "SignedCertificateTimestamp", leaf: "x509.Certificate", issuer: "x509.Certificate") -> bytes:
    """Return what the log signed: version, time, the issuer's key, and the certificate without its timestamps."""
    import hashlib

    try:
        tbs = leaf.tbs_precertificate_bytes
    except ValueError as error:
        raise PermanentError("not a certificate that was logged before it was issued", where="certificate") from error
    milliseconds = round(_time(found).timestamp() * 1000)
    return precertificate(milliseconds, hashlib.sha256(spki(issuer)).digest(), tbs, found.extension_bytes)


def precertificate(milliseconds: int, issuer: bytes, tbs: bytes, extensions: bytes) -> bytes:
    """Return what a log signs: a time, SHA-256 of the issuer's key, and the certificate without the promise."""
    return b"".join(
        (
            struct.pack(">BBQH", 0, 0, milliseconds, _PRECERTIFICATE),
            issuer,
            len(tbs).to_bytes(3),
            tbs,
            struct.pack(">H", len(extensions)),
            extensions,
        )
    )
