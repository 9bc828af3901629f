"""What a caller sees of a server that is asked over HTTP: `HttpClient` is one, and so is a fake in a test.

What a server says in an error is cut short and made printable before anyone sees it.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError

_SHOWN: Final = 200
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-vault-token"})
_LOOKS_SECRET: Final = re.compile(rb"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\bhv[sbr]\.[\w-]{8,}")
"""JSON web tokens, which a login sends in its body, and tokens of OpenBao."""
_GONE: Final = b"[redacted]"


class Reply(NamedTuple):
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> str:
        """The beginning of the body, fit for an error."""
        text = self.body[: 2 * _SHOWN].decode("utf-8", "replace")
        return "".join(character if character.isprintable() else " " for character in text)[:_SHOWN].strip()


class Peer(Protocol):
    """A server at a base URL."""

    @property
    def host(self) -> str:
        """Who it is, for errors."""
        ...

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request below the base URL and return the answer, whatever its status.

        Raises `TransientError` when there is none in time or it is torn, `PermanentError` when it is too large.
        """
        ...


def redacted(reply: Reply, headers: Mapping[str, str] | None) -> Reply:
    """Return a refusal without the credentials that it was sent: servers, and proxies before them, echo requests.

    What it says goes into errors, and from there into status and events, which many may read.
    """
    if reply.status < 400:
        return reply
    body = reply.body
    for name, value in (headers or {}).items():
        # A scheme before it (`Bearer`) is no secret.
        secret = value.rpartition(" ")[2].encode()
        if name.lower() in _SECRET_HEADERS and secret:
            body = body.replace(secret, _GONE)
    return reply._replace(body=_LOOKS_SECRET.sub(_GONE, body))


def failed(reply: Reply, where: str) -> UgalluError:
    """Return the error for an answer that is none of those that the caller understands."""
    said = f"answered {reply.status}: {reply.said}" if reply.said else f"answered {reply.status}"
    if reply.status in (401, 403):
        return RefusedError(said, where=where)
    if reply.status in (408, 425, 429) or reply.status >= 500:
        wish = reply.headers.get("retry-after", "")
        seconds = float(wish) if wish.isascii() and wish.isdecimal() and len(wish) < 6 else None
        return TransientError(said, where=where, retry_after=seconds)
    return PermanentError(said, where=where)
