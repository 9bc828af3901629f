"""The progress line: a pure function of how far the work is, drawn only on a terminal."""

import io

import pytest

from ugallu.cli.progress import Meter, Progress, clock, line, size


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_line_tells_share_rate_and_time_left() -> None:
    """Half of the bytes in four seconds: 50 %, the rate of items, four seconds left."""
    text = line(Progress("reading", 50, 100, 4.0, items=480_000, unit="events", note="37 found"), 120)
    assert " 50 %" in text
    assert "120,000 events/s" in text
    assert "37 found" in text
    assert text.endswith("0:04 left")


def test_line_makes_no_guess_at_the_start() -> None:
    """Before a second has passed there is no time left to tell."""
    assert "left" not in line(Progress("reading", 1, 100, 0.2), 80)


def test_line_without_a_total_tells_bytes() -> None:
    """Standard input has no size: bytes so far instead of a share."""
    text = line(Progress("reading", 4_100_000, 0, 2.0, items=1000, unit="events"), 80)
    assert "4.1 MB" in text
    assert "%" not in text


@pytest.mark.parametrize("columns", [1, 10, 40, 80])
@pytest.mark.parametrize("plain", [True, False])
def test_line_never_wraps(columns: int, plain: bool) -> None:
    """However narrow the terminal, the line fits."""
    text = line(Progress("reading", 99, 100, 60.0, items=10**9, unit="events", note="x" * 50), columns, plain=plain)
    assert len(text) <= columns
    assert text.isascii() or not plain


def test_full_bar_is_full_even_past_the_end() -> None:
    """A file that grew meanwhile shows 100 %, not more."""
    assert "100 %" in line(Progress("reading", 150, 100, 5.0), 80)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (6.1, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    """Time left is rounded up and reads like a clock."""
    assert clock(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(812, "812 B"), (4_100_000, "4.1 MB"), (5_000_000_000_000, "5000.0 GB")])
def test_size(count: int, text: str) -> None:
    """Bytes in decimal units."""
    assert size(count) == text


def test_meter_is_silent_where_nobody_watches() -> None:
    """A pipe or a file gets not one byte."""
    out = io.StringIO()
    meter = Meter(out)
    meter.show(Progress("reading", 1, 2, 1.0))
    meter.clear()
    assert out.getvalue() == ""


def test_meter_redraws_at_most_ten_times_a_second_and_cleans_up() -> None:
    """Draws are spaced, the complete line is drawn in any case, and nothing is left behind."""
    out = Terminal()
    meter = Meter(out, columns=80)
    for step in range(1, 101):
        meter.show(Progress("reading", step, 100, 1.0 + step / 1000))
    assert out.getvalue().count("\r") == 2
    assert "100 %" in out.getvalue()
    meter.clear()
    assert out.getvalue().endswith("\r\x1b[2K")
