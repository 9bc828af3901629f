"""Public keys, as ports and bundles name them: ECDSA P-256 is what we make, others are verified too."""

import base64
import functools
import hashlib
from typing import Final

from ugallu.errors import PermanentError
from ugallu.evidence.ports import PublicKey

KEY_DETAILS: Final = "PKIX_ECDSA_P256_SHA_256"
"""How Sigstore's protobuf-specs name the one key type that we make: P-256 with SHA-256."""


_ALGORITHMS: Final = {
    # protobuf-specs name -> prefix of the key's id and the hash that its signatures are over.
    KEY_DETAILS: ("p256", "sha256"),
    "PKIX_ECDSA_P384_SHA_384": ("p384", "sha384"),
    "PKIX_ECDSA_P521_SHA_512": ("p521", "sha512"),
    "PKIX_ED25519": ("ed25519", ""),
    "PKIX_RSA_PKCS1V15_2048_SHA256": ("rsa2048", "sha256"),
    "PKIX_RSA_PKCS1V15_3072_SHA256": ("rsa3072", "sha256"),
    "PKIX_RSA_PKCS1V15_4096_SHA256": ("rsa4096", "sha256"),
}


def from_spki(spki: bytes) -> PublicKey:
    """Return the key with its id: its kind (`p256`), a colon, and 16 hex digits of SHA-256 over the SPKI DER.

    Raises `PermanentError` for a key of a kind that nobody here verifies.
    """
    return PublicKey(spki=spki, key_id=f"{_kind(spki, 'key')}:{hashlib.sha256(spki).hexdigest()[:16]}")


def from_pem(pem: bytes, *, where: str = "key") -> PublicKey:
    """Read a PEM `PUBLIC KEY`; raises `PermanentError` for anything but a key that can be verified with."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PermanentError("not a PEM public key", where=where, fix="pass the ugallu.pub of the export") from error
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    _kind(spki, where)
    return from_spki(spki)


@functools.lru_cache(maxsize=64)
def details(spki: bytes) -> str:
    """Return how protobuf-specs name this key with its hash; empty for a key that `verifies` does not know."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        key = _load(spki)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "PKIX_ED25519"
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = {"secp256r1": "P256_SHA_256", "secp384r1": "P384_SHA_384", "secp521r1": "P521_SHA_512"}.get(
            key.curve.name, ""
        )
        return name and f"PKIX_ECDSA_{name}"
    if isinstance(key, rsa.RSAPublicKey):
        name = f"PKIX_RSA_PKCS1V15_{key.key_size}_SHA256"
        return name if name in _ALGORITHMS else ""
    return ""


def to_pem(key: PublicKey) -> bytes:
    """Return the key as PEM, as `cosign --key` reads it."""
    text = base64.b64encode(key.spki).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n".encode()


def verifies(spki: bytes, signature: bytes, message: bytes, *, digest: str = "") -> bool:
    """Tell whether `signature` over `message` was made with this key: ASN.1 DER for ECDSA, PKCS #1 v1.5 for RSA.

    `digest` is the hash that was signed, by default the one that belongs to the key.
    """
    return _verifies(spki, signature, message, digest, hashed=False)


def verifies_digest(spki: bytes, signature: bytes, digest: bytes) -> bool:
    """Tell whether `signature` is over bytes with this SHA-256; never for Ed25519, which signs bytes alone."""
    return _verifies(spki, signature, digest, "sha256", hashed=True)


def _verifies(spki: bytes, signature: bytes, message: bytes, digest: str, *, hashed: bool) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    known = details(spki)
    if not known:
        return False
    name = digest or _ALGORITHMS[known][1]
    plain = {"sha384": hashes.SHA384, "sha512": hashes.SHA512}.get(name, hashes.SHA256)()
    algorithm = utils.Prehashed(plain) if hashed else plain
    try:
        key = _load(spki)
        if isinstance(key, ed25519.Ed25519PublicKey) and not hashed:
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


@functools.lru_cache(maxsize=64)
def _load(spki: bytes) -> object:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_der_public_key(spki)


def _kind(spki: bytes, where: str) -> str:
    found = details(spki)
    if not found:
        raise PermanentError(
            "a key of a kind that is not verified",
            where=where,
            fix="ECDSA P-256, P-384, P-521, Ed25519, or RSA of 2048, 3072 or 4096 bits",
        )
    return _ALGORITHMS[found][0]
