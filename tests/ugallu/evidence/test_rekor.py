"""The body of a log entry: its one exact form."""

import json
from pathlib import Path

import pytest

from ugallu.evidence import bundle, rekor
from ugallu.evidence.canonical import canonical
from ugallu.evidence.ports import Envelope, PublicKey

CERTIFIED = Path(__file__).parents[2] / "data" / "sigstore" / "rekor2-dsse-happy-path" / "bundle.sigstore.json"


@pytest.mark.parametrize("key", [PublicKey(b"spki", "p256:0"), None])
def test_the_body_is_canonical(key: PublicKey | None) -> None:
    """Key or certificate: the bytes are those of RFC 8785."""
    certificate = b"" if key else bundle.read(CERTIFIED.read_bytes()).certificate
    envelope = Envelope("type", b"payload", b"signature", key=key, certificate=certificate)
    body = rekor.body(envelope)
    assert body == canonical(json.loads(body))
    assert (b"publicKey" in body) is (key is not None)
