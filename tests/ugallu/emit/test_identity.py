"""Names, digests, labels."""

import hashlib
import json
import re

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ugallu.emit.identity import Fact, correlation_label, label_value, traceparent

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")
FACT = Fact("cluster-1", "Detection", "ExecIntoPod", "Pod/shop/pod-a", "rule-a")


def test_name_is_the_published_formula() -> None:
    """The name is `se-` and 24 hex of SHA-256 over the canonical JSON list that the design names: frozen."""
    parts = ["ugallu/v1", "cluster-1", "Detection", "ExecIntoPod", "Pod/shop/pod-a", "rule-a", "0" * 32]
    canonical = json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()
    assert FACT.name("0" * 32) == f"se-{hashlib.sha256(canonical).hexdigest()[:24]}" == "se-65dc8e9e13a77164b257ec3e"


@given(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT))
def test_names_hash_canonical_json(parts: tuple[str, str, str, str, str, str]) -> None:
    """What is hashed is RFC 8785 JSON whatever the strings, so that anybody can compute a name again."""
    digest = hashlib.sha256(rfc8785.dumps(["ugallu/v1", *parts])).hexdigest()
    assert Fact(*parts[:5]).name(parts[5]) == f"se-{digest[:24]}"


@given(st.lists(TEXT, min_size=6, max_size=6), st.lists(TEXT, min_size=6, max_size=6))
def test_every_part_counts(one: list[str], other: list[str]) -> None:
    """Facts that differ in any part have different names."""
    same = Fact(*one[:5]).name(one[5]) == Fact(*other[:5]).name(other[5])
    assert same == (one == other)


def test_derived_correlation_is_shared_for_a_minute() -> None:
    """A finding without a correlation shares one with equal facts of its minute, not with others."""
    assert FACT.correlation(120) == FACT.correlation(179) != FACT.correlation(180)
    assert FACT.correlation(120) != FACT._replace(key="rule-b").correlation(120)
    assert FACT.correlation(-1) == FACT.correlation(-60) != FACT.correlation(0)


@given(TEXT)
def test_label_values_are_legal(text: str) -> None:
    """Any text becomes a legal label value, a legal one stays, and different ones stay different."""
    value = label_value(text)
    assert LABEL.match(value)
    assert (value == text) == bool(LABEL.match(text))


@given(TEXT, TEXT)
def test_traceparent_is_well_formed(correlation: str, given_: str) -> None:
    """Whatever comes in, what goes out is W3C trace context, the same every time."""
    out = traceparent(given_, correlation, "se-1")
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", out)
    assert out == traceparent(given_, correlation, "se-1")


def test_zero_correlation_is_no_trace() -> None:
    """A correlation of zeros is a legal label, but no legal trace id."""
    assert correlation_label("0" * 32) == "0" * 32
    assert not traceparent("", "0" * 32, "se-1").startswith(f"00-{'0' * 32}")
