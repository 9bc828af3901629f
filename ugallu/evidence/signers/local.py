"""A P-256 key on this machine's disk: the signer of a process that runs without a cluster.

The key is made on first use, readable by its owner alone, and never leaves its file: no log line, error or repr
shows it, and it is not kept in the evidence store.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.errors import PermanentError, RefusedError
from ugallu.evidence import keys
from ugallu.evidence.dsse import pae
from ugallu.evidence.files import create_durably, make_directory
from ugallu.evidence.ports import Envelope, PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


class KeyFile:
    """A P-256 private key in a PKCS#8 PEM file."""

    def __init__(self, private: "EllipticCurvePrivateKey") -> None:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self._private = private
        self._algorithm = ec.ECDSA(hashes.SHA256())
        public = private.public_key()
        self.public = keys.from_spki(
            public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def sign(self, message: bytes) -> bytes:
        """Return an ASN.1 DER signature over SHA-256 of the message; about 30 µs."""
        return self._private.sign(message, self._algorithm)

    def __repr__(self) -> str:
        return f"KeyFile({self.public.key_id})"


def open_key(path: Path) -> KeyFile:
    """Load the key, or make it if there is none.

    Raises `RefusedError` when others may read it, `PermanentError` when the file holds something else.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    open_private(path, lambda: ec.generate_private_key(ec.SECP256R1()))
    return load_key(path)


def load_key(path: Path) -> KeyFile:
    """Load an existing key; raises `FileNotFoundError` when there is none, otherwise as `open_key`."""
    from cryptography.hazmat.primitives.asymmetric import ec

    private = _load(path)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise PermanentError("not an ECDSA P-256 key", where=str(path), fix="restore the key that was made here")
    return KeyFile(private)


def open_private(path: Path, make: "Callable[[], PrivateKeyTypes]") -> "PrivateKeyTypes":
    """Load a key of any kind, or make one and keep it, readable by its owner alone; raises as `open_key` does."""
    try:
        return _load(path)
    except FileNotFoundError:
        make_directory(path.parent, mode=0o700)
        # If another process was first, its key is the key.
        with contextlib.suppress(FileExistsError):
            create_durably(path, _pem(make()), mode=0o600)
        return _load(path)


def _load(path: Path) -> "PrivateKeyTypes":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    # Checked on the open descriptor: the name could be swapped between a look and a read.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise PermanentError("the key is no regular file", where=str(path))
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise RefusedError("others may read the signing key", where=str(path), fix=f"chmod 600 {path}")
        if found.st_uid != os.geteuid():
            raise RefusedError(
                "the signing key belongs to another user", where=str(path), fix=f"chown it, or remove {path}"
            )
        content = file.read(1 << 16)
    try:
        return serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own error may quote what it read.
        raise PermanentError(
            "not an unencrypted PKCS#8 key", where=str(path), fix="restore it; a new key cannot vouch for old evidence"
        ) from None


class LocalSigner:
    """Signs with a key file."""

    def __init__(self, key: KeyFile) -> None:
        self._key = key

    @property
    def mode(self) -> str:
        """`local-p256`."""
        return "local-p256"

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign at once; there is nobody to wait for."""
        signature = self._key.sign(pae(payload_type, payload))
        return Envelope(payload_type, payload, signature, key=self._key.public)

    async def public_key(self) -> PublicKey:
        """Return the verification key."""
        return self._key.public

    @property
    def signs_as(self) -> tuple[PublicKey, ...]:
        """Return the one key; it never changes."""
        return (self._key.public,)


def _pem(private: "PrivateKeyTypes") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
