"""A correlation is tested beside the rules that it counts: a version that fails there gives way to the one before."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ugallu.api.sigma import SigmaRule
from ugallu.cluster.port import Key
from ugallu.metrics import Metrics
from ugallu.testing.audit import audit_event, audit_record
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.rules import sigma_rule
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.rules import Rules

if TYPE_CHECKING:
    from ugallu.cluster.embedded.cluster import EmbeddedCluster

NAME = "many"


class House:
    """A reconciler over a cluster in memory, driven by hand."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.cluster: EmbeddedCluster = memory_cluster(self.clock, judging=False)
        self.directory = directory
        self.restart()

    def restart(self) -> None:
        """A new process: memory is lost, cluster and disk are not."""
        self.metrics = Metrics()
        self.engine = Engine(self.metrics)
        good = LastGood(self.directory / "rules")
        self.rules = Rules(self.engine, cluster=self.cluster, clock=self.clock, metrics=self.metrics, last_good=good)

    async def put(self, rule: SigmaRule) -> SigmaRule:
        await self.cluster.apply(rule, manager="test")
        return await self.turn(rule.metadata.name)

    async def turn(self, name: str = NAME) -> SigmaRule:
        await self.rules.reconcile(await self.cluster.get(SigmaRule, name))
        return await self.cluster.get(SigmaRule, name)

    def speaks(self, *seconds: int) -> bool:
        """Whether it speaks by the end of matches at these seconds."""
        records = [audit_record(**at(second)) for second in seconds]
        found = [finding.signals.get("rule") for _, finding in self.engine.inspect_batch(records)]
        return NAME in found

    def state(self, state: str) -> float:
        return self.metrics.value("ugallu_audit_rules", state=state)


def at(second: int) -> dict[str, Any]:
    time = f"2026-01-01T00:00:{second:02}Z"
    return {"auditID": f"id-{second}", "stageTimestamp": time, "requestReceivedTimestamp": time}


def correlation(least: int, *, tested: int) -> SigmaRule:
    """Speaks of `least` matches; its test expects it to speak of `tested`."""
    text = f"""
title: many
correlation:
  type: event_count
  rules: [pod-read]
  group-by: [user.username]
  timespan: 1m
  condition: {{gte: {least}}}
  generate: true
"""
    events = [audit_event(**at(second)) for second in range(tested)]
    test = {"name": "enough", "expect": "hit", "before": events[:-1], "event": events[-1]}
    return sigma_rule(NAME, match={}, sigma=text, tests=[test])


def said(rule: SigmaRule, kind: str) -> tuple[str, str] | None:
    return next(((one.status, one.reason) for one in rule.status.conditions if one.type == kind), None)


@pytest.fixture
async def house(tmp_path: Path) -> House:
    """The rule that is counted, and a correlation of two of its matches that serves."""
    house = House(tmp_path)
    await house.put(sigma_rule())
    rule = await house.put(correlation(2, tested=2))
    assert said(rule, "Tested") == ("True", "Passed")
    return house


async def test_a_bad_edit_keeps_the_last_good_version(house: House) -> None:
    """It says which test fails, and goes on counting in the windows that it has; a good edit takes over."""
    assert not house.speaks(0)
    rule = await house.put(correlation(5, tested=2))
    assert said(rule, "Tested") == ("False", "TestFailed")
    assert said(rule, "Serving") == ("True", "LastGoodVersion")
    assert "enough" in rule.status.parse_error
    assert (house.state("last-good"), house.state("serving")) == (1, 1)
    assert house.speaks(1)
    rule = await house.put(correlation(3, tested=3))
    assert said(rule, "Tested") == ("True", "Passed")
    assert (house.state("last-good"), house.state("serving")) == (0, 2)
    assert rule.status.parse_error == ""


async def test_the_last_good_version_survives_a_restart(house: House) -> None:
    """Whichever comes first, the correlation or the rule that it counts."""
    await house.put(correlation(5, tested=2))
    for order in (("pod-read", NAME), (NAME, "pod-read")):
        house.restart()
        for name in order:
            await house.turn(name)
        rule = await house.turn()
        assert said(rule, "Serving") == ("True", "LastGoodVersion"), order
        assert house.speaks(10, 11)


async def test_a_version_serves_once_its_rules_let_it_pass(house: House) -> None:
    """What failed for the rule that it counts is tried again as that one changes."""
    other = {"verb": ["get"], "user": {"usernameGlob": ["somebody"]}}
    await house.put(sigma_rule(match=other))
    rule = await house.put(correlation(3, tested=3))
    assert said(rule, "Serving") != ("True", "Armed")
    await house.put(sigma_rule())
    rule = await house.turn()
    assert said(rule, "Tested") == ("True", "Passed")
    assert said(rule, "Serving") == ("True", "Armed")
    assert house.speaks(0, 1, 2)


async def test_without_an_earlier_version_it_is_broken(tmp_path: Path) -> None:
    """And counted as such, as one is whose rules are not there."""
    house = House(tmp_path)
    rule = await house.put(correlation(5, tested=2))
    assert said(rule, "Linked") == ("False", "RuleMissing")
    assert house.state("broken") == 1
    await house.put(sigma_rule())
    assert house.state("broken") == 1, "it fails beside that rule"
    rule = await house.turn()
    assert said(rule, "Linked") == ("False", "TestFailed")
    assert (house.state("broken"), house.state("serving")) == (1, 1)
    await house.rules.gone(Key("", NAME))
    assert (house.state("broken"), house.state("serving")) == (0, 1)


async def test_one_that_waited_serves_as_soon_as_its_rule_is_there(tmp_path: Path) -> None:
    """In the count of rules too, before it is looked at again."""
    house = House(tmp_path)
    await house.put(correlation(2, tested=2))
    assert (house.state("broken"), house.state("serving")) == (1, 0)
    await house.put(sigma_rule())
    assert (house.state("broken"), house.state("serving")) == (0, 2)
    assert house.speaks(0, 1)
