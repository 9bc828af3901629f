"""The error tree: how wide a caller catches, and what a reader gets to see."""

import pytest

from ugallu.cluster.port import (
    AlreadyExistsError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    OutdatedError,
    UnavailableError,
)
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.ports import IntegrityError


def test_one_line_says_where_what_and_what_to_do() -> None:
    """The text of an error is complete, and parts that are missing leave no punctuation behind."""
    assert str(PermanentError("no such rule", where="rules/a.yaml:3", fix="check the name")) == (
        "rules/a.yaml:3: no such rule (check the name)"
    )
    assert str(PermanentError("no such rule")) == "no such rule"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (TransientError, "Transient"),
        (ConflictError, "Conflicting"),
        (PermanentError, "Permanent"),
        (RefusedError, "Unauthorized"),
    ],
)
def test_categories_are_those_of_the_api(error: type[UgalluError], category: str) -> None:
    """`EventResponse.status.error.type` takes the category as it is."""
    assert error("x").category == category
    assert issubclass(error, UgalluError)


@pytest.mark.parametrize(
    ("error", "wide"),
    [
        (NotFoundError, PermanentError),
        (InvalidError, PermanentError),
        (IntegrityError, PermanentError),
        (AlreadyExistsError, ConflictError),
        (OutdatedError, ConflictError),
        (ForbiddenError, RefusedError),
        (GoneError, TransientError),
        (UnavailableError, TransientError),
    ],
)
def test_the_errors_of_ports_say_whether_to_retry(error: type[UgalluError], wide: type[UgalluError]) -> None:
    """Whoever catches one of the four classes catches what the adapters raise."""
    assert issubclass(error, wide)


def test_a_server_may_say_when_to_come_back() -> None:
    """429 with Retry-After keeps its number."""
    assert TransientError("busy", retry_after=3.0).retry_after == 3.0
    assert TransientError("busy").retry_after is None
