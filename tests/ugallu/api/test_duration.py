"""Durations: Go's form in and out, longer units in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.duration import duration_of, nanoseconds_of, seconds_of
from ugallu.api.meta import decode_strict
from ugallu.api.platform import TTLConfigSpec
from ugallu.errors import PermanentError

HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("90s", 90 * 10**9),
        ("1h30m", HOUR * 3 // 2),
        ("1.5h", HOUR * 3 // 2),
        ("+5m", 300 * 10**9),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("7ns", 7),
        ("2us2µs2μs", 6000),
        ("3ms", 3 * 10**6),
        ("1d", 24 * HOUR),
        ("2w", 336 * HOUR),
        ("1y", 8760 * HOUR),
        ("0.9999999999999999999999999999999s", 10**9 - 1),
        ("9223372036854775807ns", 2**63 - 1),
    ],
)
def test_what_people_write_is_read(text: str, nanoseconds: int) -> None:
    """Every form that Go reads, and days, weeks and years; what is finer than a nanosecond is cut, as Go does."""
    assert nanoseconds_of(text) == nanoseconds
    assert seconds_of(text) == nanoseconds / 1e9


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "-5s", "1h 30m", "1e3s", "s", ".s", "1H", "1M", "٣s", "1s\n", "1" * 200 + "s"]
)
def test_anything_else_is_refused_with_a_way_out(text: str) -> None:
    """The message says what was written and what to write."""
    with pytest.raises(PermanentError, match="is no duration") as caught:
        nanoseconds_of(text, where="spec.window")
    assert caught.value.where == "spec.window"
    assert "1h30m" in caught.value.fix


def test_what_go_cannot_hold_is_refused() -> None:
    """Another client would read it as garbage, or not at all."""
    with pytest.raises(PermanentError, match="too long"):
        nanoseconds_of("300y")
    for nanoseconds in (-1, 2**63):
        with pytest.raises(PermanentError, match="is no duration"):
            duration_of(nanoseconds)


def test_an_empty_duration_is_the_default() -> None:
    """Absent and empty are the same on this API."""
    assert seconds_of("", default=10) == 10
    assert seconds_of("") == 0


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (245 * 10**9, "4m5s"),
        (245_001_000_000, "4m5.001s"),
        (5 * HOUR + 367_001_000_000, "5h6m7.001s"),
        (168 * HOUR, "168h0m0s"),
        (8 * 60 * 10**9 + 1, "8m0.000000001s"),
        (2**63 - 1, "2562047h47m16.854775807s"),
    ],
)
def test_what_is_written_is_what_go_writes(nanoseconds: int, text: str) -> None:
    """The cases of Go's own `Duration.String`."""
    assert duration_of(nanoseconds) == text


@given(st.integers(0, 2**63 - 1))
def test_nothing_is_lost_on_the_way(nanoseconds: int) -> None:
    """Writing and reading give the same duration."""
    assert nanoseconds_of(duration_of(nanoseconds)) == nanoseconds


@given(st.text(alphabet="0123456789.+-hmsµndwy ", max_size=12))
def test_reading_ends_with_a_duration_or_a_reason(text: str) -> None:
    """No text makes it raise anything else, and what it reads can be written."""
    try:
        nanoseconds = nanoseconds_of(text)
    except PermanentError:
        return
    assert nanoseconds_of(duration_of(nanoseconds)) == nanoseconds


def test_our_own_defaults_are_durations() -> None:
    """The windows that hold without a config can be read: 168 hours for critical events, 6 for info."""
    spec = decode_strict(
        TTLConfigSpec, {"defaults": {"securityEvent": {}, "eventResponse": {}, "attestationBundle": {}, "results": {}}}
    )
    assert seconds_of(spec.defaults.security_event.critical) == 168 * 3600
    assert seconds_of(spec.defaults.security_event.info) == 6 * 3600
    assert spec.defaults.results is not None
    assert seconds_of(spec.defaults.results.compliance_scan) == 365 * 86_400
