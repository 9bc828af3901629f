"""Tables and ages read as kubectl's do."""

import datetime as dt

import pytest

from ugallu.cli.table import age, rows

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


def test_columns_are_aligned_without_trailing_blanks() -> None:
    """Every column is as wide as its widest cell and three blanks."""
    assert rows([("NAME", "AGE"), ("se-1234", "5m")]) == ["NAME      AGE", "se-1234   5m"]


def test_hostile_cells_stay_in_their_line() -> None:
    """Line breaks and terminal escapes in audit data reach no terminal."""
    [text] = rows([("a\nb\x1b[31m\u202e", "c")])
    assert text == "a\\nb\\u001b[31m\\u202e   c"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"), (600, "10m"), (10_799, "179m"),
        (10_800, "3h"), (12_000, "3h20m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"), (180_000, "2d2h"),
        (691_200, "8d"), (63_072_000, "2y0d"), (63_158_400, "2y1d"), (400_000_000, "12y"),
    ],
)  # fmt: skip
def test_age(seconds: int, text: str) -> None:
    """The steps of kubectl's HumanDuration."""
    assert age(NOW - dt.timedelta(seconds=seconds), NOW) == text


def test_age_of_the_unborn() -> None:
    """An object without a creation time says so."""
    assert age(None, NOW) == "<unknown>"
