"""Tokens and versions that callers hand back."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cluster.embedded.tokens import Token, read, read_revision, write
from ugallu.cluster.port import InvalidError


@given(st.integers(1, 2**63 - 1), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=50)
def test_a_token_survives_the_round_trip(revision: int, namespace: str, name: str) -> None:
    """What a page gave is what the next one gets."""
    assert read(write(Token(revision, namespace, name))) == Token(revision, namespace, name)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "é",
        "====",
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b'[0,"",""]').decode(),
        base64.urlsafe_b64encode(b'[9223372036854775808,"",""]').decode(),
        base64.urlsafe_b64encode(b'["1","",""]').decode(),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    """Invented tokens never reach the database."""
    with pytest.raises(InvalidError):
        read(text)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "1_0", "\u0661", "9" * 40, " 1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """Only plain digits that fit a revision are taken."""
    with pytest.raises(InvalidError):
        read_revision(text)
