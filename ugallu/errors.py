"""Every error that ugallu raises on purpose; the split that matters is: retry, or don't.

    UgalluError
     ├── TransientError    the same call may succeed later: retry with backoff
     ├── ConflictError     the world moved on: read again, then decide
     ├── PermanentError    the same call will fail for ever: tell the user, wait for a change
     └── RefusedError      we may not do this: rights, policy, a guard

The four classes equal the API's error categories (`EventResponse.status.error.type`: Transient, Conflicting,
Permanent, Unauthorized). Adapters translate library exceptions at the border with `raise ... from`.
"""

from typing import ClassVar


class UgalluError(Exception):
    """What went wrong, where, and what the reader can do about it.

    `str(error)` is one line: `<where>: <what> (<fix>)`; it never carries a secret.
    """

    category: ClassVar[str] = "Permanent"

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{hint}"


class TransientError(UgalluError):
    """The same call may succeed later. `retry_after` is the server's own wish in seconds, if it had one."""

    category = "Transient"

    def __init__(self, what: str, *, where: str = "", fix: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.retry_after = retry_after


class ConflictError(UgalluError):
    """The world is not as the caller believed: read again, then decide."""

    category = "Conflicting"


class PermanentError(UgalluError):
    """The same call will fail for ever; it waits for a change by a person."""

    category = "Permanent"


class RefusedError(UgalluError):
    """We may not do this: missing rights, an admission policy, or a guard of our own."""

    category = "Unauthorized"


def first_of(error: BaseException) -> BaseException:
    """Return the first error that a group of groups holds: task groups wrap what a person can act on."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
