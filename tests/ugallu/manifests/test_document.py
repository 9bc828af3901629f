"""YAML as Kubernetes reads it."""

import pytest
import yaml

from ugallu.manifests.document import HEADER, body, render


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "0x1F", "10", "1_000", ".5", "1.", "yes", "null", "~", "", "2026-01-01"]
)
def test_a_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    """Readers differ on what is a number; quotes they all understand."""
    assert body([{"v": text}]) == f"v: '{text}'\n"


@pytest.mark.parametrize("text", ["v1alpha1", "4Gi", "50m", "/readyz", ":8081", "1.2.3"])
def test_other_texts_are_plain(text: str) -> None:
    """Nothing is quoted for nothing."""
    assert body([{"v": text}]) == f"v: {text}\n"


@pytest.mark.parametrize("text", ["a\nb\n", "a\nb", "a: b\n  c\n", "x \ny", " a\nb", "a\n\nb\n\n", "tab\there\nthere"])
def test_texts_of_several_lines_come_back_as_they_were(text: str) -> None:
    """Expressions of policies are read by people: as blocks, where that keeps every character."""
    assert yaml.safe_load(body([{"v": text}])) == {"v": text}


def test_a_value_that_stands_twice_is_written_twice() -> None:
    """No anchors: a file can be edited and read in parts."""
    same = {"a": [1]}
    assert body([{"x": same, "y": same}]) == "x:\n  a:\n  - 1\ny:\n  a:\n  - 1\n"


def test_a_file_says_what_generates_it() -> None:
    """And its documents keep their order."""
    assert render([{"b": 1}, {"a": 2}]) == f"{HEADER}b: 1\n---\na: 2\n"
