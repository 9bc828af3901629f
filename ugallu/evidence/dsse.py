"""DSSE, Dead Simple Signing Envelope v1: what exactly is signed.

Source of the format: github.com/secure-systems-lab/dsse, `protocol.md`.
"""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that a DSSE signature covers, never the payload alone."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
