"""A development key, Ed25519: chosen by its name alone, never by default, and named in every status it signs.

cosign verifies such bundles; a Rekor v2 does not take them, and sigstore-python does not read them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.errors import PermanentError
from ugallu.evidence import keys
from ugallu.evidence.dsse import pae
from ugallu.evidence.ports import Envelope, PublicKey
from ugallu.evidence.signers.local import open_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class DevelopmentSigner:
    """A `Signer` with an Ed25519 key on disk."""

    def __init__(self, private: "Ed25519PrivateKey") -> None:
        from cryptography.hazmat.primitives import serialization

        self._private = private
        self._public = keys.from_spki(
            private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @property
    def mode(self) -> str:
        """`ed25519-dev`."""
        return "ed25519-dev"

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign at once."""
        return Envelope(payload_type, payload, self._private.sign(pae(payload_type, payload)), key=self._public)

    async def public_key(self) -> PublicKey:
        """Return the verification key."""
        return self._public

    @property
    def signs_as(self) -> tuple[PublicKey, ...]:
        """Return the one key."""
        return (self._public,)

    def __repr__(self) -> str:
        return f"DevelopmentSigner({self._public.key_id})"


def open_development(path: Path) -> DevelopmentSigner:
    """Load the key, or make it if there is none; raises as `open_key` does."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = open_private(path, Ed25519PrivateKey.generate)
    if not isinstance(private, Ed25519PrivateKey):
        raise PermanentError("not an Ed25519 key", where=str(path), fix="restore the key that was made here")
    return DevelopmentSigner(private)
