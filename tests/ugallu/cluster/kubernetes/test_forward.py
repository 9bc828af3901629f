"""What a port inside a Pod answers: read as HTTP, or refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.cluster.kubernetes.forward import body_of
from ugallu.cluster.port import InvalidError, UnavailableError


@given(st.binary(max_size=200), st.sampled_from([b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 Very well"]))
def test_the_body_is_what_follows_the_head(body: bytes, first: bytes) -> None:
    """Byte for byte, whatever is in it."""
    assert body_of(first + b"\r\nContent-Type: text/plain\r\n\r\n" + body, "pod") == body


@given(st.binary(max_size=200))
def test_what_is_no_http_is_said(answer: bytes) -> None:
    """Nothing else than one of the two errors of the port, whatever answers."""
    with pytest.raises((UnavailableError, InvalidError)):
        body_of(answer.replace(b"HTTP/1", b""), "pod")


def test_another_status_is_told() -> None:
    """With the place and the status, and without the body."""
    with pytest.raises(InvalidError) as caught:
        body_of(b"HTTP/1.0 404 Not Found\r\n\r\nsecret", "pods/a/b:1/x")
    assert str(caught.value) == "pods/a/b:1/x: answered with 404"
