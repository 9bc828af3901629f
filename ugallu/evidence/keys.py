"""ECDSA P-256 keys, as ports and bundles name them."""

import base64
import functools
import hashlib
from typing import Final

from ugallu.errors import PermanentError
from ugallu.evidence.ports import PublicKey

KEY_DETAILS: Final = "PKIX_ECDSA_P256_SHA_256"
"""How Sigstore's protobuf-specs name the one key type that we make: P-256 with SHA-256."""


def from_spki(spki: bytes) -> PublicKey:
    """Return the key with its id: `p256:` and the first 16 hex digits of SHA-256 over the SPKI DER."""
    return PublicKey(spki=spki, key_id=f"p256:{hashlib.sha256(spki).hexdigest()[:16]}")


def from_pem(pem: bytes, *, where: str = "key") -> PublicKey:
    """Read a PEM `PUBLIC KEY`; raises `PermanentError` for anything but a P-256 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PermanentError("not a PEM public key", where=where, fix="pass the ugallu.pub of the export") from error
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    _p256(spki, where)
    return from_spki(spki)


def details(spki: bytes) -> str:
    """Return how protobuf-specs name this key with its hash; empty for a key that `verifies` does not know."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        key = _load(spki)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "PKIX_ED25519"
    return KEY_DETAILS if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else ""


def to_pem(key: PublicKey) -> bytes:
    """Return the key as PEM, as `cosign --key` reads it."""
    text = base64.b64encode(key.spki).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n".encode()


def verifies(spki: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether `signature` (ASN.1 DER for P-256) over `message` was made with this P-256 or Ed25519 key."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        key = _load(spki)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


@functools.lru_cache(maxsize=64)
def _load(spki: bytes) -> object:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_der_public_key(spki)


def _p256(spki: bytes, where: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_der_public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PermanentError("not an ECDSA P-256 key", where=where, fix="ugallu signs with P-256 in every mode")
