"""Lines of a watch, however they are cut, and objects however they look, become the same notices."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cluster.kubernetes.decode import Codec, Lines, Reader
from ugallu.cluster.port import Notice, UnavailableError
from ugallu.errors import UgalluError
from ugallu.testing.contracts.cluster import SlimRule

CODEC = Codec(SlimRule)


def line(change: str, name: Any, version: int, **more: Any) -> bytes:
    metadata = {"name": name, "resourceVersion": str(version), **more}
    return json.dumps({"type": change, "object": {"metadata": metadata}}, ensure_ascii=False).encode() + b"\n"


def read(chunks: list[bytes]) -> list[Notice[SlimRule]]:
    reader = Reader(CODEC)
    seen = [notice for chunk in chunks for notice in reader.feed(chunk)]
    reader.end()
    return seen


LINES = st.lists(
    st.one_of(
        st.builds(line, st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), st.text(max_size=20), st.integers(1, 10**6)),
        st.builds(line, st.just("BOOKMARK"), st.just("x"), st.integers(1, 10**6)),
        # Words of the protocol where they mean nothing, and an object that does not fit.
        st.builds(lambda word, n: line("ADDED", word, n, labels={"a": word}), st.sampled_from(["BOOKMARK", "ERROR"]), st.integers(1, 9)),
        st.builds(lambda n: line("ADDED", "bad", n, labels=[n]), st.integers(1, 9)),
        st.just(b"\n"),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=200)
@given(LINES, st.lists(st.integers(0, 2000), max_size=12))
def test_where_chunks_end_makes_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    """A stream cut anywhere, once or often, tells what its lines tell one by one."""
    stream = b"".join(lines)
    edges = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert read(chunks) == read(lines)


def test_every_border_of_a_stream() -> None:
    """A stream of all sorts of lines, cut at each of its bytes, and byte by byte."""
    lines = [
        line("ADDED", "ü", 1),
        line("BOOKMARK", "", 2),
        line("ADDED", "bad", 3, labels=[1]),
        line("DELETED", "ü", 4),
    ]
    stream = b"".join(lines)
    told = read([stream])
    assert len(told) == 4
    for cut in range(len(stream) + 1):
        assert read([stream[:cut], stream[cut:]]) == told
    assert read([stream[n : n + 1] for n in range(len(stream))]) == told


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_garbage_is_an_error_of_the_port(garbage: bytes) -> None:
    """No bytes at all raise anything but the port's errors."""
    for feed in (
        lambda: list(Reader(CODEC).feed(garbage + b"\n")),
        lambda: CODEC.page(garbage),
        lambda: CODEC.object(garbage),
    ):
        try:
            feed()
        except UgalluError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["metadata", "name", "type", "object", "items", "kind", "code", "labels"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200)
@given(JSON, st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "x"]))
def test_any_json_is_told_or_refused(thing: Any, change: str) -> None:
    """Whatever JSON an event holds, it is a notice or an error of the port; a page of such things counts what it skips."""
    try:
        for notice in Reader(CODEC).feed(json.dumps({"type": change, "object": thing}).encode() + b"\n"):
            assert (notice.object is None) or notice.unread is None
    except UgalluError:
        pass
    page = CODEC.page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": [thing, {"metadata": {}}]}).encode())
    assert len(page.items) + page.skipped == 2
    assert len(page.items) >= 1


def test_a_long_line_costs_its_length_once() -> None:
    """A line that comes in many pieces is joined once, and refused past the limit."""
    lines = Lines(limit=1_000_000)
    piece = b"x" * 1000
    for _ in range(1000):
        assert lines.feed(piece) == b""
    assert lines.rest == 1_000_000
    with pytest.raises(UnavailableError):
        lines.feed(b"x")


def test_the_fast_road_is_taken() -> None:
    """A block of plain changes is decoded at once; one that holds a protocol word is looked at line by line."""
    plain = line("ADDED", "a", 1) + line("MODIFIED", "BOOKMARKED", 2)
    assert CODEC.changes(plain) is not None
    assert CODEC.changes(plain + line("BOOKMARK", "", 3)) is None
    event = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "a", "annotations": {"x": '"ERROR"'}}}})
    assert CODEC.changes(event.encode() + b"\n") is not None
    assert msgspec.json.decode(event)["type"] == "ADDED"
