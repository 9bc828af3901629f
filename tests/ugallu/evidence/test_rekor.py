"""The body of a log entry: its one exact form."""

import json

import pytest

from ugallu.evidence import rekor
from ugallu.evidence.canonical import canonical
from ugallu.evidence.ports import Envelope, PublicKey


@pytest.mark.parametrize("key", [PublicKey(b"spki", "p256:0"), None])
def test_the_body_is_canonical(key: PublicKey | None) -> None:
    """Key or certificate: the bytes are those of RFC 8785."""
    envelope = Envelope("type", b"payload", b"signature", key=key, certificate=b"" if key else b"certificate")
    body = rekor.body(envelope)
    assert body == canonical(json.loads(body))
    assert (b"publicKey" in body) is (key is not None)
