"""A rule that is slow again and again is held back from heavy events, is told, and comes back; no one caller does that."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ugallu.sdk import AuditRecord, Severity, SigmaEmit, SigmaMatch, SigmaRuleSpec, decode_strict
from ugallu_audit_detection.sigma.budget import PAUSE, PER_CALLER, SLOW, Budget
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.match import Matcher

HEAVY = "x" * 1000


class Machine:
    """A clock on which every look into an event of a thousand bytes or more takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rule(severity: Severity = Severity.HIGH) -> CompiledRule:
    emit = SigmaEmit(security_event_type="KubernetesAPICall", severity=severity)
    match = decode_strict(SigmaMatch, {"requestObjectGlob": [{"jsonPath": "$.a", "patterns": ["*evil*"]}]})
    return compile_rule("slow", SigmaRuleSpec(match=match, emit=emit))


def at(second: float, user: str = "alice", text: str = HEAVY) -> AuditRecord:
    stamp = f"2026-01-01T{int(second) // 3600:02}:{int(second) // 60 % 60:02}:{second % 60:09.6f}Z"
    event = {"verb": "create", "stageTimestamp": stamp, "user": {"username": user}, "requestObject": {"a": text}}
    return msgspec.json.decode(json.dumps(event), type=AuditRecord)


class House:
    """A matcher whose one rule is slow on heavy events."""

    def __init__(self, severity: Severity = Severity.HIGH, *, holding: bool = True) -> None:
        machine = Machine()
        self.budget = Budget(machine, limit=0.5, holding=holding)
        slow = rule(severity)

        def holds(view: Any) -> bool:
            if len(bytes(view.record.request_object)) >= len(HEAVY):
                machine.now += 1.0
            return slow.holds(view)

        self.case = (slow, holds)

    def sees(self, record: AuditRecord) -> bool:
        """Whether the rule hits."""
        from ugallu_audit_detection.sigma.view import RecordView

        return bool(self.budget.spent([self.case], RecordView(record)))

    def held(self) -> bool:
        """Whether a heavy event that is evil passes unseen."""
        return not self.sees(at(100, "eve", HEAVY + "evil"))


def callers() -> Iterator[str]:
    for number in range(100):
        yield f"user-{number}"


def test_a_rule_that_is_slow_for_everybody_is_held_back_from_heavy_events() -> None:
    """It goes on looking at lighter ones, and the first word of it comes at once."""
    house = House()
    for number, user in zip(range(SLOW - 1), callers(), strict=False):
        house.sees(at(number, user))
    assert not house.held(), "the tenth event is still looked at"
    assert house.held()
    assert house.sees(at(100, text="evil"))
    first = house.budget.words[0]
    assert (first.rule, first.passed) == ("slow", 0)
    assert first.weight >= len(HEAVY)


@pytest.mark.parametrize("name", ["alice", "system:serviceaccount:shop:{}"])
def test_no_single_caller_can_hold_a_rule_back(name: str) -> None:
    """However many events it sends, and however many ServiceAccounts it makes in its namespace."""
    house = House()
    for number in range(100):
        house.sees(at(number, name.format(number)))
    assert not house.held()
    assert house.budget.slow("slow"), "its status says that it is slow"


def test_a_few_callers_each_count_three_times() -> None:
    """Four identities are what it takes."""
    house = House()
    for user in ("a", "b", "c"):
        for number in range(PER_CALLER * 2):
            house.sees(at(number, user))
    assert not house.held()
    house.sees(at(50, "d"))
    assert house.held()


def test_a_critical_rule_is_never_held_back() -> None:
    """Nobody buys the silence of what matters most."""
    house = House(Severity.CRITICAL)
    for number, user in zip(range(50), callers(), strict=False):
        house.sees(at(number, user))
    assert not house.held()


def test_a_replay_holds_nothing_back() -> None:
    """What a machine has time for must not decide what is found."""
    house = House(holding=False)
    for number, user in zip(range(50), callers(), strict=False):
        house.sees(at(number, user))
    assert not house.held()
    assert not house.budget.words


def test_what_passes_unseen_is_told_and_the_rule_comes_back() -> None:
    """At most a word a minute, with the number; after the pause it is tried again, and so when time runs backwards."""
    house = House()
    for number, user in zip(range(SLOW), callers(), strict=False):
        house.sees(at(number, user))
    for second in (20, 30, 70, 80, 90, 140):
        assert not house.sees(at(second, text=HEAVY + "evil"))
    assert [word.passed for word in house.budget.words] == [0, 3, 3]
    assert house.sees(at(SLOW + PAUSE, text=HEAVY + "evil"))
    assert house.budget.slow("slow") is None


def test_another_version_begins_anew() -> None:
    """An author who mends a rule does not wait."""
    house = House()
    for number, user in zip(range(SLOW), callers(), strict=False):
        house.sees(at(number, user))
    assert house.held()
    house.budget.forget("slow")
    assert not house.held()


def test_a_matcher_spends_by_the_budget() -> None:
    """The same through the matcher."""
    seconds = iter(range(10_000))
    budget = Budget(lambda: float(next(seconds)), limit=0.5, holding=True)
    matcher = Matcher([rule()], budget=budget)
    hits = [
        bool(matcher.match(at(number, user, HEAVY + "evil")))
        for number, user in zip(range(15), callers(), strict=False)
    ]
    assert hits == [True] * SLOW + [False] * 5
