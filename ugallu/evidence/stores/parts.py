"""A part of stored content, under a name of its own: one event's bytes among those of many that were sealed together.

As a URL `<url>#bytes=<first>-<last>`, as a key `<key>@<first>-<last>`, both ends included, as in a Range of HTTP. A
store that is asked for such a key answers with the part, after checking the whole. Only whole keys are written.
"""

import re
from typing import NamedTuple

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import IntegrityError, Stored

_FRAGMENT = re.compile(r"bytes=(\d{1,18}-\d{1,18})", re.ASCII)
_NAME = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


class Part(NamedTuple):
    """The bytes from `first` to `last`, both included."""

    first: int
    last: int

    def of(self, stored: Stored, content: bytes) -> tuple[Stored, bytes]:
        """Return the part of what is stored; raises `IntegrityError` where there is no such part."""
        cut = content[self.first : self.last + 1]
        if len(cut) != self.last + 1 - self.first:
            raise IntegrityError(f"has no bytes {self.first}-{self.last}", where=stored.url)
        return msgspec.structs.replace(stored, url=url_of(stored.url, self), sha256=digest(cut), size=len(cut)), cut


def url_of(url: str, part: Part) -> str:
    """Return the URL of a part."""
    return f"{url}#bytes={part.first}-{part.last}"


def split(key: str) -> tuple[str, Part | None]:
    """Return the whole key, and the part that is meant, if it is one; raises `PermanentError` for no such name."""
    whole, at, name = key.partition("@")
    if not at:
        return key, None
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) > int(found[2]):
        raise PermanentError(f"{key[:80]!r} is no safe key", where="evidence store")
    return whole, Part(int(found[1]), int(found[2]))


def from_url(url: str) -> tuple[str, str]:
    """Return a URL without its fragment, and what is added to its key for the part that is meant."""
    whole, sign, fragment = url.partition("#")
    if not sign:
        return url, ""
    found = _FRAGMENT.fullmatch(fragment)
    if found is None:
        raise PermanentError("not the URL of a part", where=url[:200])
    return whole, f"@{found[1]}"
