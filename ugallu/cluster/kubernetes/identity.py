"""Who we are to a server: tokens and certificates, given, or of files that are read again as they change.

No secret is in a repr, a log line or an error.
"""

from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread

from ugallu.clock import Clock, SystemClock
from ugallu.cluster.kubernetes import tls
from ugallu.errors import PermanentError
from ugallu.settings import Secret

FRESH: Final = 60.0
"""Seconds that a file counts as read: kubelet replaces a token well before its end."""


class Identity:
    """Who we say we are: a bearer token, a client certificate with its key, both or neither."""

    __slots__ = ("certificate", "token")

    def __init__(self, token: str = "", certificate: bytes = b"") -> None:
        self.token = Secret(token)
        self.certificate = Secret(certificate)

    def same(self, other: "Identity") -> bool:
        """Tell whether a server would see the same."""
        return self.token.reveal() == other.token.reveal() and self.certificate.reveal() == other.certificate.reveal()


class Identities(Protocol):
    """Where an identity comes from."""

    async def current(self) -> Identity:
        """Return the identity to show now; raises `PermanentError` or `UnavailableError` when there is none."""
        ...

    async def renewed(self) -> Identity:
        """Return the identity after a look at where it comes from, whatever was kept."""
        ...

    async def close(self) -> None:
        """Let go of what is under way."""
        ...


class Material:
    """Bytes given, or of a file that is read again each minute; a file that is gone meanwhile is as it was."""

    def __init__(self, *, data: bytes = b"", path: Path | None = None, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._content = Secret(data)
        self._read_at = float("-inf") if path is not None else float("inf")

    async def read(self, *, anew: bool = False) -> bytes:
        """Return the bytes; raises `PermanentError` when the file could never be read."""
        path, now = self._path, self._clock.monotonic()
        if path is not None and (anew or now - self._read_at >= FRESH):
            try:
                self._content = Secret(await anyio.to_thread.run_sync(path.read_bytes))
            except OSError as error:
                if self._read_at == float("-inf"):
                    raise PermanentError(f"cannot be read: {error.strerror}", where=str(path)) from error
            self._read_at = now
        return self._content.reveal()

    def doubt(self) -> None:
        """Read the file again at the next call."""
        if self._path is not None:
            self._read_at = min(self._read_at, self._clock.monotonic() - FRESH)


class Kept:
    """An identity of files and given values."""

    def __init__(
        self, *, token: Material | None = None, certificate: Material | None = None, key: Material | None = None
    ) -> None:
        self._token = token or Material()
        self._certificate = certificate or Material()
        self._key = key or Material()
        self._pair = Secret(b"")

    async def current(self) -> Identity:
        """Return what the files say."""
        return await self._read(anew=False)

    async def renewed(self) -> Identity:
        """Read the files now."""
        return await self._read(anew=True)

    async def _read(self, *, anew: bool) -> Identity:
        token = await self._token.read(anew=anew)
        certificate, key = await self._certificate.read(anew=anew), await self._key.read(anew=anew)
        pair = certificate + b"\n" + key if certificate else b""
        if pair != self._pair.reveal():
            if self._pair.reveal() and not tls.is_pair(pair):
                # Two files are not replaced at once: until both are, the last pair counts.
                self._certificate.doubt()
                self._key.doubt()
            else:
                self._pair = Secret(pair)
        return Identity(header_value(token), self._pair.reveal())

    async def close(self) -> None:
        """Nothing is ever under way."""


def header_value(token: bytes) -> str:
    """Return a token as a header can carry it; raises `PermanentError` without quoting it."""
    text = token.strip()
    if not all(0x21 <= byte <= 0x7E for byte in text):
        raise PermanentError("the token holds characters that no token has", where="credentials")
    return text.decode("ascii")
