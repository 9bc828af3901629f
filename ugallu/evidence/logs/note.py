"""Checkpoints: a tree's size and root, signed. Pure.

Source of the formats: C2SP `tlog-checkpoint` and `signed-note`; ECDSA signature lines as Sigstore's Rekor writes them.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.encoding import b64, unb64

MAX_BYTES: Final = 64 << 10
MAX_SIGNATURES: Final = 16

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(r"— ([^\s+]+) (\S+)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class SignatureLine(msgspec.Struct, frozen=True):
    """One signature: who, the first four bytes of the key's id, and the signature itself."""

    name: str
    key_hint: bytes
    signature: bytes


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed tree head; `body` is the text that the signatures cover."""

    origin: str
    size: int
    root: bytes
    body: str
    signatures: tuple[SignatureLine, ...]


def log_id(spki: bytes) -> bytes:
    """Return the id of a log with an ECDSA key: SHA-256 over the SPKI DER."""
    return hashlib.sha256(spki).digest()


def write(origin: str, size: int, root: bytes, key_id: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Return a checkpoint signed by the log itself, under its origin as name."""
    body = f"{origin}\n{size}\n{b64(root)}\n"
    line = b64(key_id[:4] + sign(body.encode()))
    return f"{body}\n— {origin} {line}\n"


def read(text: str) -> Checkpoint:
    """Parse a checkpoint strictly; raises `PermanentError` with what does not fit. Signatures are not checked here."""
    if len(text) > MAX_BYTES:
        raise PermanentError("longer than a checkpoint may be", where="checkpoint")
    if _CONTROL.search(text):
        raise PermanentError("a control character", where="checkpoint")
    body, blank, tail = text.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise PermanentError("no signature block", where="checkpoint")
    lines = body.split("\n")
    if len(lines) < 3 or not lines[0] or not all(lines):
        raise PermanentError("origin, size or root is missing", where="checkpoint")
    if not _SIZE.fullmatch(lines[1]):
        raise PermanentError("the size is not a decimal number", where="checkpoint")
    root = unb64(lines[2], "checkpoint root", limit=32, size=32)
    signatures: list[SignatureLine] = []
    for line in tail[:-1].split("\n"):
        found = _SIGNATURE.fullmatch(line)
        if found is None or len(signatures) == MAX_SIGNATURES:
            raise PermanentError("a signature line is malformed", where="checkpoint")
        raw = unb64(found[2], "checkpoint signature", limit=1024)
        if len(raw) < 5:
            raise PermanentError("a signature is too short", where="checkpoint")
        signatures.append(SignatureLine(found[1], raw[:4], raw[4:]))
    return Checkpoint(lines[0], int(lines[1]), root, f"{body}\n", tuple(signatures))
