"""Continue tokens: where the next page of a list starts, and at which revision."""

import base64
import binascii

import msgspec

from ugallu.cluster.port import InvalidError


class Token(msgspec.Struct, frozen=True, array_like=True):
    """The revision of the list, and the last object of the page before."""

    revision: int
    namespace: str
    name: str


def write(token: Token) -> str:
    """Return the token as callers see it: opaque."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def read(text: str) -> Token:
    """Return the token that `write` wrote, or raise `InvalidError`."""
    try:
        token = msgspec.json.decode(base64.b64decode(text, altchars=b"-_", validate=True), type=Token)
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise InvalidError("not a continue token", fix="hand back what the page before gave") from error
    if not 0 < token.revision < 1 << 63:
        raise InvalidError("not a continue token", fix="hand back what the page before gave")
    return token


def read_revision(text: str) -> int:
    """Return a resourceVersion as a number, or raise `InvalidError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidError(f"{text[:40]!r} is no resourceVersion", fix="hand back what a list or an object gave")
    return int(text)
