"""The engine says what a slow and separate reading of correlations says, on invented rules and streams of events."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.testing.audit import audit_record
from ugallu.testing.correlation_reference import Reference
from ugallu.testing.correlations import correlation_spec, event_at
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.engine import Engine

BOUNDED = settings(max_examples=50)
RULES: dict[str, dict[str, Any]] = {
    "a": {"objectRef": {"resource": ["pods"]}},
    "b": {"objectRef": {"resource": ["nodes"]}},
    "c": {"verb": ["delete"]},
}
FIELDS = ["user.username", "objectRef.namespace", "verb", "sourceIPs"]
KINDS = ["event_count", "value_count", "temporal", "temporal_ordered"]
SIGNS = ["gte", "gt", "lt", "lte", "eq", "neq"]
FORWARD = ("gte", "gt")


@st.composite
def conditions(draw: st.DrawFn, names: list[str], depth: int = 2) -> str:
    """A condition over all of these names, each once."""
    if len(names) == 1:
        return draw(st.sampled_from(["", "not "])) + names[0]
    cut = draw(st.integers(1, len(names) - 1))
    parts = [draw(conditions(each, depth - 1)) for each in (names[:cut], names[cut:])]
    return f"({parts[0]} {draw(st.sampled_from(['and', 'or']))} {parts[1]})"


@st.composite
def correlations(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """The `correlation` of a document."""
    names = draw(st.permutations(list(RULES)))[: draw(st.integers(1, 3))]
    condition: Any = None
    if kind in ("event_count", "value_count"):
        sign = draw(st.sampled_from(SIGNS))
        condition = {sign: draw(st.integers(2, 4))}
        if kind == "value_count":
            condition["field"] = draw(st.sampled_from(FIELDS))
    elif draw(st.booleans()):
        condition = draw(conditions(names))
    else:
        condition = draw(st.sampled_from([None, {"gte": draw(st.integers(1, len(names)))}]))
    found = {
        "type": kind,
        "rules": names,
        "timespan": draw(st.sampled_from(["5s", "10s", "30s", "1m", "2m"])),
        "group-by": draw(st.lists(st.sampled_from(FIELDS), max_size=2, unique=True)),
        "condition": condition,
        "generate": True,
    }
    if draw(st.booleans()):
        found["aliases"] = {"who": {names[0]: "user.username"} | dict.fromkeys(names[2:], "verb")}
        found["group-by"] = [*found["group-by"], "who"]
    return {name: value for name, value in found.items() if value is not None}


def in_order_only(correlation: dict[str, Any]) -> bool:
    """Whether the condition may cease to hold when a match comes: what is late then depends on what is forgotten."""
    condition = correlation.get("condition")
    return "not" in condition if isinstance(condition, str) else not set(condition or {"gte": 1}) & set(FORWARD)


def stream(seed: int, *, late: bool) -> list[dict[str, Any]]:
    """Events in the order in which they arrive, mostly that of time; some late, some too late, or of another day."""
    pick = random.Random(seed)
    now, events = 100_000.0, []
    for number in range(pick.randint(8, 40)):
        now += pick.choice([0, 1, 2, 5, 5, 10, 30, 61])
        behind = pick.choice([0, 0, 0, 0, 5, 10, 30, 60, 61, 400]) if late else 0
        if late and pick.randint(0, 40) == 0:
            now = 5000.0 if now > 50_000 else 100_000.0
        events.append(
            event_at(
                now - behind,
                auditID=f"{number:08x}-0000-4000-8000-000000000000",
                verb=pick.choice(["get", "get", "delete"]),
                user={"username": pick.choice(["u", "u", "u", "v"])},
                sourceIPs=pick.choice([["10.0.0.1"], ["1.1.1.1", "10.0.0.2"], ["10.0.0.3"], []]),
                objectRef={
                    "resource": pick.choice(["pods", "nodes"]),
                    "name": "x",
                    "namespace": pick.choice(["", "n", "n", "m"]),
                },
            )
        )
    return events


BASES = [arm(name, rule_spec(match=match), {}) for name, match in RULES.items()]


def armed(correlation: dict[str, Any]) -> Armed:
    parts = {name: correlation.get(name) for name in ("type", "rules", "timespan", "condition", "generate", "aliases")}
    spec = correlation_spec({"rateLimit": {"burst": 10_000}}, group_by=correlation.get("group-by"), **parts)
    return arm("it", spec, {})


def engine_with(correlation: Armed) -> Engine:
    engine = Engine()
    for rule in (*BASES, correlation):
        engine.arm(rule)
    assert engine.correlator.links.order == ("it",)
    return engine


def spoken(correlation: dict[str, Any], events: list[dict[str, Any]], cuts: list[int]) -> list[tuple[int, str]]:
    """What the engine says, with a restart at every cut: index of the event and the group."""
    it, said, begin = armed(correlation), [], 0
    engine = engine_with(it)
    for end in (*sorted({cut for cut in cuts if cut < len(events)}), len(events)):
        records = [audit_record(**event) for event in events[begin:end]]
        for index, finding in engine.inspect_batch(records):
            if finding.signals.get("rule") == "it":
                said.append((begin + index, finding.signals["correlation.group"]))
        kept, engine, begin = engine.snapshot(), engine_with(it), end
        engine.restore(kept)
        assert engine.snapshot() == kept
    return said


def expected(correlation: dict[str, Any], events: list[dict[str, Any]], *, thin: bool = True) -> list[tuple[int, str]]:
    """What the reference says."""
    reference = Reference({"correlation": correlation}, RULES, thin=thin)
    names = correlation.get("group-by", [])
    found = []
    for index, event in enumerate(events):
        for group, _ in reference.feed(event, index):
            found.append((index, ", ".join(map("=".join, zip(names, group, strict=True))) or "all"))
    return sorted(found)


def meets_nothing(correlation: dict[str, Any]) -> bool:
    """Whether the condition holds without any match, or never: such a correlation does not compile."""
    condition = correlation.get("condition")
    if not isinstance(condition, str):
        return False
    from ugallu.testing.correlation_reference import kleene

    names = correlation["rules"]
    if kleene(condition, set(), set(names)) is True:
        return True
    return not any(
        kleene(condition, set(some), set(names) - set(some))
        for count in range(len(names) + 1)
        for some in itertools.combinations(names, count)
    )


@pytest.mark.parametrize("kind", KINDS)
@BOUNDED
@given(data=st.data(), seed=st.integers(0), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_engine_and_reference_agree(kind: str, data: st.DataObject, seed: int, cuts: list[int]) -> None:
    """Late events, other recordings, cuts of the stream and restarts included."""
    correlation = data.draw(correlations(kind))
    if meets_nothing(correlation):
        return
    for number in range(5):
        events = stream(5 * seed + number, late=not in_order_only(correlation))
        assert sorted(spoken(correlation, events, cuts)) == expected(correlation, events)


@pytest.mark.parametrize("kind", ["value_count", "temporal"])
@BOUNDED
@given(data=st.data(), seed=st.integers(0))
def test_what_is_forgotten_makes_no_difference_in_order(kind: str, data: st.DataObject, seed: int) -> None:
    """While events come in order, the matches that a window leaves out are those it does not need."""
    correlation = data.draw(correlations(kind))
    if not meets_nothing(correlation):
        events = stream(seed, late=False)
        assert expected(correlation, events) == expected(correlation, events, thin=False)
