"""What an API server's refusals mean: HTTP status and `Status` object in, one of the port's errors out. Pure.

Source of the format: `metav1.Status` in k8s.io/apimachinery. An answer without a Status did not come from the API
server but from something on the way, so nothing is concluded from it that a caller would give up on.
"""

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from ugallu.cluster.port import (
    AlreadyExistsError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    OutdatedError,
    UnavailableError,
)
from ugallu.errors import UgalluError

_MESSAGE: Final = 1_000
"""Characters of a server's message that we repeat."""
_TOO_LARGE: Final = "request is too large"
"""etcd's word for an object that does not fit; the API server passes it on as a 500, as if trying again could help."""
_NO_PATH: Final = b"404 page not found"
"""All that a server says of a kind that it does not serve (`k8s.io/apiserver/pkg/server/mux`)."""
_LONGEST_WAIT: Final = 60.0
"""Seconds that a server may ask us to stay away: API servers ask for a few, whoever asks for years is mistaken."""


class Cause(msgspec.Struct, frozen=True):
    """One reason among several."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True):
    """What a refusal is about."""

    causes: tuple[Cause, ...] | None = None
    retry_after: float | None = msgspec.field(name="retryAfterSeconds", default=None)


class Status(msgspec.Struct, frozen=True):
    """The answer of a request that failed, the last line of a watch, the result of a command in a Pod."""

    kind: str = ""
    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The causes, however they are left out."""
        return (self.details.causes or ()) if self.details else ()


_decode = msgspec.json.Decoder(Status).decode


def status_of(body: bytes) -> Status | None:
    """Return the Status in a body, None when it is something else; an API server's word on a path counts as one."""
    if body.strip() == _NO_PATH:
        return Status(kind="Status", status="Failure", message="the server does not serve this", reason="NotFound")
    found = result_of(body)
    return found if found is not None and found.kind == "Status" else None


def result_of(body: bytes) -> Status | None:
    """Return the Status in a body that is known to hold one, and therefore may leave its kind out."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def refusal(code: int, status: Status | None, *, where: str = "", retry_after: float | None = None) -> UgalluError:
    """Return the error that an answer means."""
    what = plain(status.message) if status is not None and status.message else f"answered with HTTP status {code}"
    if retry_after is None and status is not None and status.details is not None:
        retry_after = status.details.retry_after
    if retry_after is not None:
        retry_after = min(max(retry_after, 0.0), _LONGEST_WAIT)
    if code == 401:
        return ForbiddenError(what, where=where, fix="the credentials are not, or no longer, accepted")
    if code == 403:
        return ForbiddenError(what, where=where)
    if status is not None and code == 404:
        return NotFoundError(what, where=where)
    if status is not None and code == 409:
        return (AlreadyExistsError if status.reason == "AlreadyExists" else OutdatedError)(what, where=where)
    if status is not None and code == 410:
        return GoneError(what, where=where, fix="list again")
    if code == 413 or (status is not None and (code in (400, 405, 406, 415, 422) or _TOO_LARGE in status.message)):
        return InvalidError(what, where=where)
    return UnavailableError(what, where=where, retry_after=retry_after)


def plain(message: str) -> str:
    """Return a server's message as one line that commands no terminal; it may quote what an attacker wrote."""
    line = " ".join(message.split())
    line = "".join(char if char.isprintable() else "\ufffd" for char in line)
    return line if len(line) <= _MESSAGE else line[:_MESSAGE] + "..."


def asked_to_wait(retry_after: str | None, now: dt.datetime) -> float | None:
    """Return what a `Retry-After` header asks for: seconds, or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - now).total_seconds())
