"""`BearerToken`: one secret that callers show, from a file that may be replaced at any time; `read_token` shows it."""

import hashlib
import hmac
from pathlib import Path

from ugallu.errors import PermanentError
from ugallu.net.watched import Watched


class BearerToken:
    """Knows the token's hash alone: no repr, error or log can show it."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises `PermanentError` when it cannot be read or holds no token."""
        self._files = Watched(path)
        self._digest = self._load()

    def refresh(self) -> bool:
        """Take over a file that has changed; tell whether it had.

        Raises `PermanentError` for one that holds no token, once a change; the old token stays.
        """
        if not self._files.changed():
            return False
        self._digest = self._load()
        return True

    def shown_in(self, authorization: str) -> bool:
        """Tell whether this Authorization header shows the token, in a time that does not depend on it."""
        scheme, _, token = authorization.partition(" ")
        shown = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(shown, self._digest) and scheme.lower() == "bearer"

    def _load(self) -> bytes:
        return hashlib.sha256(_token_in(self._files)).digest()


def read_token(path: Path) -> str:
    """Return the token in a file, as a caller shows it; raises `PermanentError` as `BearerToken` does."""
    return _token_in(Watched(path)).decode("ascii")


def _token_in(files: Watched) -> bytes:
    (content,) = files.read()
    token = content.strip()
    if not token or any(byte <= 0x20 or byte >= 0x7F for byte in token):
        raise PermanentError("holds no token", where=str(files.paths[0]), fix="write one line of printable characters")
    return token
