"""Canonical JSON against an independent implementation of RFC 8785."""

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError
from ugallu.evidence.canonical import MAX_INTEGER, canonical, digest
from ugallu.evidence.dsse import pae
from ugallu.evidence.statement import spec_bytes
from ugallu.testing.evidence import make_event

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200)
@given(values)
def test_equals_rfc_8785(value: object) -> None:
    """Whatever has no floats is written as RFC 8785 says, keys beyond ASCII included."""
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


def test_an_event_is_written_as_rfc_8785() -> None:
    """The bytes of a spec are those that any RFC 8785 implementation makes of it."""
    event = make_event()
    assert spec_bytes(event) == rfc8785.dumps(msgspec.to_builtins(event.spec))


@pytest.mark.parametrize("value", [1.0, [0.5], {"a": {"b": 1e300}}, 2**53, -(2**53), {"a": [2**64]}])
def test_what_other_readers_would_round_is_refused(value: object) -> None:
    """Floats and integers beyond 2^53 - 1 are refused wherever they hide."""
    with pytest.raises(PermanentError, match="canonical JSON"):
        canonical(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}])
def test_half_a_surrogate_pair_is_refused(value: object) -> None:
    """Text that is not Unicode has no bytes to sign."""
    with pytest.raises(PermanentError, match="surrogate"):
        canonical(value)


def test_nesting_is_bounded() -> None:
    """A value nested too deep is an error, not a crash."""
    value: object = 1
    for _ in range(500):
        value = [value]
    with pytest.raises(PermanentError, match="deeper"):
        canonical(value)


def test_digest_names_its_algorithm() -> None:
    """A digest is `sha256:` and lower-case hex."""
    assert digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("kind", "payload", "encoded"),
    [
        ("http://example.com/HelloWorld", b"hello world", b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"),
        ("", b"", b"DSSEv1 0  0 "),
        ("é", b"\x00\xff", b"DSSEv1 2 \xc3\xa9 2 \x00\xff"),
    ],
)
def test_pae_vectors(kind: str, payload: bytes, encoded: bytes) -> None:
    """The DSSE encoding is that of the published vector; lengths count bytes."""
    assert pae(kind, payload) == encoded
