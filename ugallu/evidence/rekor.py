"""The body of a transparency-log entry as Rekor v2 defines it: `hashedrekord` 0.0.2 over the DSSE encoding.

Verifiers do not trust the body: they rebuild it from the bundle and compare bytes, so it has one exact form.
Source of the format: github.com/sigstore/rekor-tiles; the order of keys is that of RFC 8785.
"""

import hashlib
from typing import Final

import msgspec

from ugallu.evidence.dsse import pae
from ugallu.evidence.encoding import b64
from ugallu.evidence.keys import KEY_DETAILS
from ugallu.evidence.ports import Envelope

KIND: Final = "hashedrekord"
VERSION: Final = "0.0.2"


def body(envelope: Envelope) -> bytes:
    """Return the canonical body of the entry for this envelope."""
    digest = hashlib.sha256(pae(envelope.payload_type, envelope.payload)).digest()
    if envelope.key is not None:
        verifier = {"publicKey": {"rawBytes": b64(envelope.key.spki)}}
    else:
        verifier = {"x509Certificate": {"rawBytes": b64(envelope.certificate)}}
    # Canonical as it stands: keys in order, values ASCII. Going over it once more would cost more than the rest.
    return msgspec.json.encode(
        {
            "apiVersion": VERSION,
            "kind": KIND,
            "spec": {
                "hashedRekordV002": {
                    "data": {"algorithm": "SHA2_256", "digest": b64(digest)},
                    "signature": {
                        "content": b64(envelope.signature),
                        "verifier": {"keyDetails": KEY_DETAILS, **verifier},
                    },
                }
            },
        }
    )
