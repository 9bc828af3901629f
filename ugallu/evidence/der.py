"""DER, as much of it as timestamps need: one value, one spelling, nothing after it.

Why not a library: the declarative ASN.1 of `cryptography` is younger than the version we ask for, and a CMS signature
is over the very bytes of a part, which a tree of decoded values no longer has. Source of the rules: ITU-T X.690.
"""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from ugallu.errors import PermanentError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTETS: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
MAX_PARTS: Final = 256
"""Parts of one constructed value; those of a token are a dozen."""

_TIME = re.compile(r"(\d{14})(\.\d{0,8}[1-9])?Z")


class Value(NamedTuple):
    """A tag, its content, and both as they stood."""

    tag: int
    content: bytes
    raw: bytes

    @property
    def parts(self) -> tuple["Value", ...]:
        """What a constructed value is made of."""
        if not self.tag & 0x20:
            raise PermanentError(f"tag {self.tag:#x} is not made of parts", where="DER")
        return tuple(_values(self.content))

    def of(self, tag: int) -> "Value":
        """Return the value itself; raises `PermanentError` unless it has this tag."""
        if self.tag != tag:
            raise PermanentError(f"tag {self.tag:#x} instead of {tag:#x}", where="DER")
        return self

    @property
    def integer(self) -> int:
        """A whole number, in its shortest form."""
        content = self.of(INTEGER).content
        if not content or (len(content) > 1 and (content[0], content[1] >> 7) in ((0x00, 0), (0xFF, 1))):
            raise PermanentError("an integer is not in its shortest form", where="DER")
        return int.from_bytes(content, signed=True)

    @property
    def oid(self) -> str:
        """An object identifier, dotted."""
        content = self.of(OID).content
        if not content or content[-1] & 0x80 or len(content) > 64:
            raise PermanentError("an object identifier is cut", where="DER")
        arcs: list[int] = []
        value, begun = 0, False
        for byte in content:
            if not begun and byte == 0x80:
                raise PermanentError("an object identifier is padded", where="DER")
            value, begun = value << 7 | byte & 0x7F, True
            if not byte & 0x80:
                arcs.append(value)
                value, begun = 0, False
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))

    @property
    def time(self) -> dt.datetime:
        """A GeneralizedTime in UTC."""
        found = _TIME.fullmatch(self.of(TIME).content.decode("ascii", "replace"))
        if found is None:
            raise PermanentError("a time is not written as DER writes it", where="DER")
        try:
            whole = dt.datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
        except ValueError as error:
            raise PermanentError("a time that does not exist", where="DER") from error
        return whole + dt.timedelta(seconds=float(found[2] or 0))


def read(content: bytes) -> Value:
    """Return the one value that this is; raises `PermanentError` when it is cut, padded or followed by more."""
    values = tuple(_values(content))
    if len(values) != 1:
        raise PermanentError(f"{len(values)} values instead of one", where="DER")
    return values[0]


def write(tag: int, *parts: bytes) -> bytes:
    """Return tag, length and the parts end to end."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    width = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | width)) + size.to_bytes(width) + content


def write_integer(value: int) -> bytes:
    """Return an INTEGER, not negative."""
    return write(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def write_oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return write(OID, bytes(content))


def _values(content: bytes) -> Iterator[Value]:
    at = count = 0
    while at < len(content):
        count += 1
        head, size = _head(content, at)
        end = at + head + size
        if end > len(content) or count > MAX_PARTS:
            raise PermanentError("a value is cut" if end > len(content) else "too many parts", where="DER")
        yield Value(content[at], content[at + head : end], content[at:end])
        at = end


def _head(content: bytes, at: int) -> tuple[int, int]:
    """Return the sizes of tag and length, and of what follows them."""
    if content[at] & 0x1F == 0x1F or at + 1 >= len(content):
        raise PermanentError("a tag is too long, or cut", where="DER")
    first = content[at + 1]
    if first < 0x80:
        return 2, first
    width = first & 0x7F
    size = int.from_bytes(content[at + 2 : at + 2 + width])
    # Neither open-ended (BER), nor padded, nor large: nothing that is read here comes near 16 MiB.
    if not 1 <= width <= 3 or at + 2 + width > len(content) or size < max(0x80, 1 << 8 * (width - 1)):
        raise PermanentError("a length is not written as DER writes it", where="DER")
    return 2 + width, size
