"""Quantities: exact, and read as Kubernetes reads them."""

import re
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.forensics import SnapshotConfig
from ugallu.api.quantity import amount_of, quantity_of, whole
from ugallu.api.scalars import QUANTITY
from ugallu.errors import PermanentError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0"),
        (3, "3"),
        (-3, "-3"),
        ("+1", "1"),
        ("2Gi", 2 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("-1Ki", "-1024"),
        ("500m", "0.5"),
        ("7u", "0.000007"),
        ("1n", "0.000000001"),
        (".5k", "500"),
        ("5.M", "5000000"),
        ("1E", 10**18),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("12e-3", "0.012"),
        ("0.1n", "0.000000001"),
        ("-0.1n", "-0.000000001"),
        ("0.0000000011", "0.000000002"),
        ("8Ei", 2**63 - 1),
        ("-8Ei", -(2**63 - 1)),
        ("1e999999999", 2**63 - 1),
        ("1e-999999999", "0.000000001"),
        ("0e999999999", "0"),
    ],
)
def test_what_kubernetes_reads_is_read(text: str | int, amount: str | int) -> None:
    """Every suffix and exponent; finer than a billionth rounds away from zero, nothing is beyond 2^63 - 1."""
    assert amount_of(text) == Decimal(amount)


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1gi", "1KI", "1K", "0x1", "1e", "--1", "1\n", "٣", "nan", "9" * 70]
)
def test_anything_else_is_refused_with_a_way_out(text: str) -> None:
    """The message says what was written and what to write."""
    with pytest.raises(PermanentError, match="is no quantity") as caught:
        amount_of(text, where="spec.snapshot.maxBytes")
    assert caught.value.where == "spec.snapshot.maxBytes"
    assert "2Gi" in caught.value.fix


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.decimals(-(10**9), 10**9, places=9))
def test_nothing_is_lost_on_the_way(amount: int | Decimal) -> None:
    """Writing and reading give the same amount, in a form that the schema takes, whatever the caller's own context."""
    text = quantity_of(amount)
    assert re.fullmatch(QUANTITY, text)
    with localcontext() as narrow:
        narrow.prec = 3
        read = amount_of(text)
        assert quantity_of(amount) == text
    assert read == Decimal(amount)


@given(st.from_regex(QUANTITY, fullmatch=True))
def test_whatever_the_schema_takes_is_read(text: str) -> None:
    """A server stores what fits its pattern; of that, only what no sane quantity needs is refused: its length."""
    if len(text) <= 64 and "." not in text.lower().partition("e")[2]:
        assert abs(amount_of(text)) <= 2**63 - 1


def test_bytes_are_whole() -> None:
    """A limit in bytes is a number of bytes; the default capture ends at 2 GiB."""
    assert whole(SnapshotConfig().max_bytes) == 2 << 30
    assert whole("1.5") == 2
    assert whole(4096) == 4096


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1024, "1Ki"),
        (1000, "1k"),
        (1536, "1536"),
        (3 << 30, "3Gi"),
        (Decimal("0.25"), "250m"),
        (-2048, "-2Ki"),
    ],
)
def test_amounts_are_written_short(amount: int | Decimal, text: str) -> None:
    """The largest suffix that keeps the amount exact."""
    assert quantity_of(amount) == text
