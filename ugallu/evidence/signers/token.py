"""Projected ServiceAccount tokens: a file that the kubelet replaces, read anew whenever one is shown.

What a token claims is read, not verified: it is our own, and whoever it is shown to verifies it.
"""

import base64
import binascii
import datetime as dt
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ugallu.errors import PermanentError, TransientError
from ugallu.evidence.ports import TokenEndedError
from ugallu.settings import Secret

T = TypeVar("T")

MAX_BYTES: Final = 64 << 10
_ACCOUNT: Final = "system:serviceaccount:"


class Claims(msgspec.Struct, frozen=True):
    """What a token says of itself."""

    iss: str = ""
    sub: str = ""
    aud: str | tuple[str, ...] = ()
    exp: int = 0

    @property
    def audiences(self) -> tuple[str, ...]:
        """For whom it is."""
        return (self.aud,) if isinstance(self.aud, str) else self.aud

    @property
    def kubernetes_name(self) -> str:
        """The name that Fulcio gives a ServiceAccount; empty for another subject."""
        namespace, colon, account = self.sub.removeprefix(_ACCOUNT).partition(":")
        if not self.sub.startswith(_ACCOUNT) or not (namespace and colon and account) or ":" in account:
            return ""
        return f"https://kubernetes.io/namespaces/{namespace}/serviceaccounts/{account}"


class Token:
    """A token and its claims; no repr shows the token."""

    def __init__(self, text: str, claims: Claims) -> None:
        self.secret = Secret(text)
        self.claims = claims


class TokenFile:
    """A file with one token."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, now: dt.datetime, audience: str = "") -> Token:
        """Return the token in the file as it is now.

        Raises `PermanentError` when there is none, or one for somebody else; `TokenEndedError` when it has ended: the
        kubelet will replace it.
        """
        where = str(self.path)
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError as error:
            fix = "project a ServiceAccount token into the Pod (serviceAccountToken volume)"
            raise PermanentError("there is no token", where=where, fix=fix) from error
        except OSError as error:
            raise TransientError(f"cannot be read: {error.strerror}", where=where) from error
        text = content.decode("ascii", "replace").strip()
        claims = claims_of(text, Claims, where)
        if audience and audience not in claims.audiences:
            raise PermanentError(
                f"the token is not for the audience {audience!r}",
                where=where,
                fix=f"project it with audience {audience}",
            )
        if claims.exp and claims.exp <= now.timestamp():
            raise TokenEndedError("the token has ended", where=where, fix="the kubelet replaces it")
        return Token(text, claims)


def claims_of(text: str, shape: type[T], where: str = "token") -> T:
    """Return what a token says of itself, in this shape; raises `PermanentError` for what is no token."""
    _, _, rest = text[:MAX_BYTES].partition(".")
    middle = rest.partition(".")[0]
    try:
        middle += "=" * (-len(middle) % 4)
        return msgspec.json.decode(base64.b64decode(middle, altchars=b"-_", validate=True), type=shape)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        # The library's own error may quote the token.
        raise PermanentError("holds no token (JWT)", where=where, fix="project a ServiceAccount token") from None
