"""Certificates as evidence has them: a chain that ends at an authority the reader trusts, and who the leaf is.

Nothing is looked up: the chain is the authority's own, in its order, and the time is one that somebody signed.
Source of the rules: RFC 5280; of the identity: github.com/sigstore/fulcio, `docs/oid-info.md`.
"""

import datetime as dt
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence import der
from ugallu.evidence.trusted_root import Authority

if TYPE_CHECKING:
    from cryptography import x509

Extension = TypeVar("Extension", bound="x509.ExtensionType")

MAX_BYTES: Final = 16 << 10
CODE_SIGNING: Final = "1.3.6.1.5.5.7.3.3"
TIME_STAMPING: Final = "1.3.6.1.5.5.7.3.8"
ISSUER: Final = "1.3.6.1.4.1.57264.1.8"
ISSUER_RAW: Final = "1.3.6.1.4.1.57264.1.1"
OTHER_NAME: Final = "1.3.6.1.4.1.57264.1.7"
NAME_CONSTRAINTS: Final = "2.5.29.30"
UTF8: Final = 0x0C

_KNOWN: Final = frozenset({"2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37"})
"""Critical extensions that are looked at: key usage, names, constraints, extended key usage."""


class Identity(msgspec.Struct, frozen=True):
    """Who signed, by a certificate: the name in it, and the issuer of the token that proved the name."""

    name: str
    issuer: str


@functools.lru_cache(maxsize=64)
def load(certificate: bytes, where: str = "certificate") -> "x509.Certificate":
    """Parse DER; raises `PermanentError`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    if len(certificate) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where=where)
    try:
        found = x509.load_der_x509_certificate(certificate)
        found.extensions  # noqa: B018 - parsed only when asked for
        if found.public_bytes(Encoding.DER) != certificate:
            raise PermanentError("not the one encoding of this certificate", where=where)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise PermanentError("not a certificate", where=where) from error
    return found


def spki(certificate: "x509.Certificate") -> bytes:
    """Return the SubjectPublicKeyInfo, DER."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PermanentError("a key of an unknown kind", where="certificate") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_leaf(leaf: "x509.Certificate", purpose: str, *, only: bool = False) -> None:
    """Refuse a leaf that may sign certificates, may not sign data, or is for something else.

    `only`: the purpose stands alone and is critical, as RFC 3161 2.3 has it for timestamps.
    """
    from cryptography import x509

    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise PermanentError("a certificate of an authority, not of a signer", where="certificate")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise PermanentError("its key may not sign data", where="certificate")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    found = [one.dotted_string for one in purposes] if purposes is not None else []
    if purpose not in found or (only and found != [purpose]):
        raise PermanentError(f"not made for the purpose {purpose}", where="certificate")
    if only and not leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).critical:
        raise PermanentError("its purpose is not marked critical", where="certificate")


def check_chain(
    leaf: "x509.Certificate", chain: Sequence["x509.Certificate"], at: dt.datetime, purpose: str
) -> "x509.Certificate":
    """Return the leaf's issuer, if every link up to the last of `chain`, which is trusted, holds at that time."""
    from cryptography import x509

    issuer = leaf
    for below, issuer in enumerate(chain):
        subject = chain[below - 1] if below else leaf
        _check_issued(subject, issuer)
        constraints = _extension(issuer, x509.BasicConstraints)
        usage = _extension(issuer, x509.KeyUsage)
        if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
            raise PermanentError("a link of the chain is no authority", where="certificate")
        if constraints.path_length is not None and constraints.path_length < below:
            raise PermanentError("the chain is longer than its authority allows", where="certificate")
        purposes = _extension(issuer, x509.ExtendedKeyUsage)
        if purposes is not None and purpose not in [one.dotted_string for one in purposes]:
            raise PermanentError("an authority of the chain is for something else", where="certificate")
    for one in (leaf, *chain):
        if not one.not_valid_before_utc <= at <= one.not_valid_after_utc:
            raise PermanentError(f"a certificate was not valid at {at:%Y-%m-%dT%H:%M:%SZ}", where="certificate")
        for extension in one.extensions:
            if extension.oid.dotted_string == NAME_CONSTRAINTS and purpose == CODE_SIGNING:
                # Critical or not: cosign and sigstore-python refuse a name that they exclude.
                raise PermanentError("limits on names, which nobody here looks at", where="certificate")
            if extension.critical and extension.oid.dotted_string not in _KNOWN:
                raise PermanentError(
                    f"a critical extension that nobody here knows: {extension.oid.dotted_string}", where="certificate"
                )
    return chain[0]


def issuer_of(certificate: bytes, at: dt.datetime, authorities: Sequence[Authority]) -> "x509.Certificate":
    """Return the certificate of the authority that issued this signer's one and counted then."""
    leaf = load(certificate)
    reason = PermanentError("the trusted root names no certificate authority")
    for authority in authorities:
        if not authority.counts_at(at):
            reason = PermanentError("its authority did not count at the time of the signature")
            continue
        chain = [load(one, "trusted root") for one in authority.chain]
        try:
            return check_chain(leaf, chain, at, CODE_SIGNING)
        except PermanentError as error:
            reason = error
    raise reason


def identity(leaf: "x509.Certificate") -> Identity:
    """Return who a certificate of Fulcio is about; raises `PermanentError` unless it has one name and one issuer."""
    from cryptography import x509

    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None or len(names) != 1:
        raise PermanentError("not exactly one name", where="certificate")
    return Identity(_name(names[0]), _issuer(leaf))


def _name(name: "x509.GeneralName") -> str:
    from cryptography import x509

    if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier):
        return name.value
    if isinstance(name, x509.OtherName) and name.type_id.dotted_string == OTHER_NAME:
        return _text(name.value)
    raise PermanentError("a name that is neither a URI nor an address", where="certificate")


def _issuer(leaf: "x509.Certificate") -> str:
    from cryptography import x509

    found: set[str] = set()
    for extension in leaf.extensions:
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            continue
        if extension.oid.dotted_string == ISSUER:
            found.add(_text(extension.value.value))
        elif extension.oid.dotted_string == ISSUER_RAW:
            found.add(extension.value.value.decode("utf-8", "replace"))
    if len(found) != 1:
        raise PermanentError("not exactly one issuer", where="certificate")
    return found.pop()


def _text(content: bytes) -> str:
    try:
        return der.read(content).of(UTF8).content.decode()
    except UnicodeDecodeError as error:
        raise PermanentError("a name that is no text", where="certificate") from error


def _check_issued(subject: "x509.Certificate", issuer: "x509.Certificate") -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PermanentError("not issued by an authority that the reader trusts", where="certificate") from error


def _extension(certificate: "x509.Certificate", kind: type[Extension]) -> Extension | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
