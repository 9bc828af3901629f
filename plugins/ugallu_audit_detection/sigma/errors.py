"""Why a rule cannot serve. The reasons are those of the condition `Compiled` on a SigmaRule."""

import enum

from ugallu.sdk import PermanentError


class Reason(enum.StrEnum):
    """The condition reason of a rule that does not compile."""

    JSON_PATH = "JSONPath"
    GLOB_BUDGET = "GlobBudget"
    COMPILE_ERROR = "CompileError"
    LOG_SOURCE = "LogSource"
    UNSUPPORTED = "Unsupported"
    REGEX = "Regex"


class RuleError(PermanentError):
    """A rule that cannot serve: `where` names the field, the message the value, `fix` the way out."""

    def __init__(self, reason: Reason, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


def shown(value: object, limit: int = 80) -> str:
    """Return a rule author's value as it goes into a message: quoted, cut, on one line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
