"""What one process opens once, for all of its operators."""

import pytest

from ugallu.errors import RefusedError
from ugallu.operator.shared import Shared


def test_the_first_opens_and_the_last_closes() -> None:
    """Everybody gets the same thing; it is closed when the last one has given it back, however often they say so."""
    closed: list[str] = []
    shared = Shared()
    one, other = shared.take("store", lambda: "first", closed.append), shared.take("store", lambda: "2", closed.append)
    assert one.value is other.value == "first"
    one.give_back()
    one.give_back()
    assert closed == []
    other.give_back()
    assert closed == ["first"]
    assert shared.take("store", lambda: "again", closed.append).value == "again"


def test_what_cannot_be_opened_is_not_kept() -> None:
    """A later try opens anew."""

    def refused() -> str:
        raise RefusedError("another process has it")

    shared = Shared()
    with pytest.raises(RefusedError):
        shared.take("store", refused, print)
    assert shared.take("store", lambda: "here", print).value == "here"
