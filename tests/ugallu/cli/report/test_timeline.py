"""The picture's axis: order is kept, silences are folded, everything stays inside."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cli.report.timeline import axis, span

T0 = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_order_is_kept_within_the_width(seconds: list[int]) -> None:
    """Later is further right, and nothing leaves the picture."""
    spread = axis([T0 + dt.timedelta(seconds=s) for s in seconds], 900.0)
    places = [spread.at[moment] for moment in sorted(spread.at)]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 900.0 + 1e-6


def test_long_silence_is_folded_and_named() -> None:
    """Two minutes of nothing before forty busy seconds take a small part of the picture."""
    moments = [T0, *(T0 + dt.timedelta(seconds=158 + s) for s in range(0, 40, 4))]
    spread = axis(moments, 900.0)
    [(_, quiet)] = spread.folds
    assert quiet == 158
    assert spread.at[moments[1]] < 200


def test_even_steps_stay_even() -> None:
    """Without an outlier distances are true."""
    spread = axis([T0 + dt.timedelta(seconds=s) for s in range(10)], 900.0)
    assert spread.folds == []
    assert [round(x) for x in spread.at.values()] == list(range(0, 901, 100))


@pytest.mark.parametrize(
    ("seconds", "text"), [(8, "8 s"), (158, "2 min 38 s"), (120, "2 min"), (11_100, "3 h 5 min"), (200_000, "2 d")]
)
def test_span(seconds: float, text: str) -> None:
    """A length of time as a person says it."""
    assert span(seconds) == text
