"""DER: one value, one spelling; anything else is an error of ours."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError
from ugallu.evidence import der


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_what_is_read_is_written_the_same(content: bytes) -> None:
    """Any bytes: refused, or a value whose parts, laid end to end, are the bytes again."""
    try:
        value = der.read(content)
        assert value.raw == content
        assert der.write(value.tag, value.content) == content
        if value.tag & 0x20:
            assert b"".join(part.raw for part in value.parts) == value.content
        for look in (lambda: value.integer, lambda: value.oid, lambda: value.time):
            try:
                look()
            except PermanentError:
                continue
    except PermanentError:
        return


@settings(max_examples=200)
@given(st.integers(min_value=0, max_value=2**80), st.integers(min_value=0, max_value=70_000))
def test_numbers_and_lengths_round_trip(number: int, size: int) -> None:
    """Whole numbers and lengths come back as they were written."""
    assert der.read(der.write_integer(number)).integer == number
    assert len(der.read(der.write(der.OCTETS, bytes(size))).content) == size


@settings(max_examples=100)
@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**40), max_size=8))
def test_identifiers_round_trip(first: int, second: int, rest: list[int]) -> None:
    """Object identifiers come back as they were written."""
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.read(der.write_oid(dotted)).oid == dotted


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",  # open-ended
        b"\x30\x81\x01\x00",  # a length that is longer than it need be
        b"\x30\x82\x00\x81" + bytes(0x81),
        b"\x30\x84\x00\x00\x00\x00",
        b"\x04\x02\x00",  # cut
        b"\x05\x00\x05\x00",  # one more behind it
        b"\x1f\x01\x00",
    ],
)
def test_other_spellings_are_refused(content: bytes) -> None:
    """What BER allows and DER does not, what is cut, and what is followed by more."""
    with pytest.raises(PermanentError):
        der.read(content)


@pytest.mark.parametrize("content", [b"\x02\x00", b"\x02\x02\x00\x01", b"\x02\x02\xff\x80"])
def test_integers_have_one_spelling(content: bytes) -> None:
    with pytest.raises(PermanentError):
        der.read(content).integer  # noqa: B018


@pytest.mark.parametrize("text", ["20260101120000", "20260101120000.50Z", "20261301120000Z", "2026010112Z", "x"])
def test_times_have_one_spelling(text: str) -> None:
    with pytest.raises(PermanentError):
        der.read(der.write(der.TIME, text.encode())).time  # noqa: B018


def test_a_time_is_in_utc() -> None:
    value = der.read(der.write(der.TIME, b"20260101120000.5Z"))
    assert value.time == dt.datetime(2026, 1, 1, 12, 0, 0, 500_000, dt.UTC)
