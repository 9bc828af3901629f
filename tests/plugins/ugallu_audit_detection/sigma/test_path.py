"""Paths name the same values whether the body is decoded or read from its bytes, and whatever stands in it."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.testing.rules_reference import dotted_values, native_path
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.sigma.path import EACH, MAX_VALUES, crossing, dotted, json_path, walk
from ugallu_audit_detection.sigma.peek import peek, peek_all, peek_crossing

keys = st.sampled_from(["a", "b", "a.b", "a.b.c", "c", "é"])
bodies = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.just("x")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=20,
)
native = st.lists(st.sampled_from([".a", ".b", "['a.b']", "[*]", ".*", "[0]", "[1]", ".é"]), max_size=4).map("".join)
names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(path=native, body=bodies)
def test_native_paths_agree(path: str, body: Any) -> None:
    """The walk over a decoded body, the look at its bytes, and the reference find the same, in the same order."""
    steps = json_path("$" + path, where="test").steps
    want = native_path(path, body)
    assert walk(steps)(body) == want
    assert peek(steps)(json.dumps(body).encode()) == want


@settings(max_examples=200, deadline=None)
@given(paths=st.lists(native, min_size=1, max_size=5), body=bodies)
def test_several_paths_are_read_in_one_pass(paths: list[str], body: Any) -> None:
    """Each finds what it finds alone, also where one ends on the way of another."""
    steps = [json_path("$" + path, where="test").steps for path in paths]
    assert peek_all(steps)(json.dumps(body).encode()) == [native_path(path, body) for path in paths]


@pytest.mark.parametrize("look", [peek(("a", EACH)), peek_crossing(("a",))])
def test_a_list_without_end_is_left_to_the_decoder(look: Callable[[bytes], list[Any]]) -> None:
    """The walk stops at a bound; a look at the bytes has none, so it must not be asked."""
    body = {"a": list(range(MAX_VALUES + 10))}
    with pytest.raises(msgspec.DecodeError):
        look(json.dumps(body).encode())
    assert len(walk(("a", EACH))(body)) == MAX_VALUES


@settings(max_examples=200, deadline=None)
@given(segments=names, body=bodies)
def test_dotted_names_agree(segments: list[str], body: Any) -> None:
    """Arrays are crossed and the longest key counts, decoded or not; what the bytes do not tell is left to the decoder."""
    want = dotted_values(segments, body, whole=False)
    assert crossing(tuple(segments))(body) == want
    assert crossing(tuple(segments), leaves=False)(body) == dotted_values(segments, body, whole=True)
    try:
        found = peek_crossing(tuple(segments))(json.dumps(body).encode())
    except msgspec.DecodeError:
        return
    assert found == want


def test_the_longest_key_counts() -> None:
    """A label with dots is found before the nesting that spells the same."""
    body = {"a": {"b": 1}, "a.b": 2}
    assert crossing(dotted("a.b"))(body) == [2]
    assert peek_crossing(dotted("a.b"))(json.dumps(body).encode()) == [2]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="$.[]*'\"ab0-9\\ podctr", max_size=30))
def test_the_path_parser_takes_anything(text: str) -> None:
    """A path parses or is refused with its place."""
    try:
        json_path(text, where="test")
    except RuleError as error:
        assert "test" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["$" + "[*]" * 80, "$" + ".*" * 120])
def test_many_wildcards_end(text: str) -> None:
    """A path of nothing but wildcards ends quickly on a deep body."""
    body: Any = 1
    for _ in range(100):
        body = [body]
    assert len(walk(json_path(text, where="test").steps)(body)) <= 1
