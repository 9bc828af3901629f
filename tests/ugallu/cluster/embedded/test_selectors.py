"""Selectors: the grammar, its limits, and no surprise on any text."""

from collections.abc import Mapping
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cluster.embedded.selectors import MAX_LENGTH, Operator, Requirement, Selector, parse_fields, parse_labels
from ugallu.cluster.port import InvalidError

KEYS = st.sampled_from(["a", "b", "app.kubernetes.io/name", "x-y", "in", "notin"])
VALUES = st.sampled_from(["", "1", "22", "v", "in", "a.b_c-d", "-3"])
OPERATORS: st.SearchStrategy[Operator] = st.sampled_from(get_args(Operator))


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(OPERATORS)
    if operator in ("exists", "absent"):
        return Requirement(draw(KEYS), operator)
    if operator in ("gt", "lt"):
        return Requirement(draw(KEYS), operator, frozenset({str(draw(st.integers(0, 99)))}))
    label_values = st.sampled_from(["", "1", "22", "v", "in", "a.b_c-d"])
    return Requirement(draw(KEYS), operator, draw(st.frozensets(label_values, min_size=1, max_size=3)))


def written(requirement: Requirement) -> str:
    """A requirement as text."""
    key, values = requirement.key, sorted(requirement.values)
    match requirement.operator:
        case "exists":
            return key
        case "absent":
            return f"!{key}"
        case "gt" | "lt":
            return f"{key}{'>' if requirement.operator == 'gt' else '<'}{values[0]}"
        case "in" if len(values) == 1:
            return f"{key}={values[0]}"
        case "notin" if len(values) == 1:
            return f"{key} != {values[0]}"
    return f"{key} {requirement.operator} ( {' , '.join(values)} )"


@given(st.lists(requirements(), max_size=5))
@settings(max_examples=200)
def test_what_is_written_is_read(wanted: list[Requirement]) -> None:
    """Every requirement survives text and back."""
    assert parse_labels(",".join(written(each) for each in wanted)) == Selector(tuple(wanted))


@given(st.text(alphabet="ab/.-_=!<>(), \t\nin1\\é", max_size=40))
@settings(max_examples=200)
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes the parser fail in another way; what parses can be evaluated."""
    for parse in (parse_labels, lambda text: parse_fields(text, ("a", "b"))):
        try:
            selector = parse(text)
        except InvalidError:
            continue
        selector.matches({"a": "1", "b": "x"})


@given(st.dictionaries(KEYS, VALUES), KEYS, st.frozensets(VALUES, min_size=1))
@settings(max_examples=100)
def test_operators_pair_off(labels: Mapping[str, str], key: str, values: frozenset[str]) -> None:
    """notin is the opposite of in, absent of exists; an absent key is notin anything and neither less nor more."""
    assert Requirement(key, "in", values).holds(labels) != Requirement(key, "notin", values).holds(labels)
    assert Requirement(key, "exists").holds(labels) != Requirement(key, "absent").holds(labels)
    if key not in labels:
        assert Requirement(key, "notin", values).holds(labels)
        assert not Requirement(key, "gt", frozenset({"0"})).holds(labels)
        assert not Requirement(key, "lt", frozenset({"0"})).holds(labels)


@pytest.mark.parametrize(
    ("labels", "holds"),
    [({"n": "8"}, True), ({"n": "7"}, False), ({"n": "-9"}, False), ({"n": "seven"}, False), ({"n": "1_0"}, False)],
    ids=str,
)
def test_numbers_compare_as_numbers(labels: dict[str, str], holds: bool) -> None:
    """> compares integers; what is none is not selected."""
    assert parse_labels("n>7").matches(labels) is holds


@pytest.mark.parametrize(
    "text",
    ["x" * (MAX_LENGTH + 1), ",".join(f"k{n}" for n in range(300)), f"a in ({','.join(map(str, range(300)))})"],
    ids=["long", "many", "wide"],
)
def test_selectors_are_bounded(text: str) -> None:
    """A huge selector is refused, not worked through."""
    with pytest.raises(InvalidError):
        parse_labels(text)


@given(st.text(max_size=30), st.sampled_from(["=", "==", "!="]))
@settings(max_examples=100)
def test_field_values_may_hold_anything_escaped(value: str, sign: str) -> None:
    """Comma, equals sign and backslash stand for themselves behind a backslash."""
    escaped = "".join("\\" + char if char in "\\,=" else char for char in value)
    selector = parse_fields(f"a{sign}{escaped},b=1", ("a", "b"))
    assert selector.requirements[0].values == {value}
    assert selector.matches({"a": value, "b": "1"}) is (sign != "!=")


def test_many_fields_are_bounded() -> None:
    """Field selectors have the same limits."""
    with pytest.raises(InvalidError):
        parse_fields(",".join(["a=1"] * 300), ("a",))


def test_the_exact_value_of_a_field_is_known() -> None:
    """`exact` finds the one value that can match, and only when it is one."""
    assert parse_fields("a=1,b!=2", ("a", "b")).exact("a") == "1"
    assert parse_fields("a=1,b!=2", ("a", "b")).exact("b") is None
