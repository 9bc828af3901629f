"""What we ask an API server about itself: its version and its clock."""

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from ugallu.cluster.kubernetes.http import Call, Transport
from ugallu.cluster.port import UnavailableError

LIMIT: Final = 4 << 20


class Version(msgspec.Struct, frozen=True):
    """What the server is, and what its clock says (to the second; None where something on the way left it out)."""

    git_version: str
    major: str
    minor: str
    server_time: dt.datetime | None = None


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str
    major: str = ""
    minor: str = ""


async def version(transport: Transport) -> Version:
    """Return what the server says of itself."""
    answer = await transport.call(Call("get", "GET", "/version", where="version"), limit=LIMIT)
    try:
        said = msgspec.json.decode(answer.body, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("what answered is no API server", where="version") from error
    return Version(said.git_version, said.major, said.minor, _date(answer.date))


def _date(header: str) -> dt.datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
