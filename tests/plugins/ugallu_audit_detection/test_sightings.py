"""A field of an imported rule that this cluster's traffic never holds is told, with what that rests on."""

import json
from typing import Any

import msgspec
import pytest

from ugallu.sdk import AuditRecord
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.conditions import remarks
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.sightings import ENOUGH, SPAN, Sightings
from ugallu_audit_detection.sigma.imported import import_sigma

SIGMA = """
title: a pod with a secret
id: 7f1e0d3c-6a5b-4c8d-9e0f-112233445566
status: stable
level: high
logsource: {product: kubernetes, service: audit}
detection:
  selection:
    verb: create
    objectRef.resource: pods
    requestObject.spec.volumes.secret.secretName|contains: token
    annotations.example.com/never: "*"
  condition: selection
"""


def rule() -> Armed:
    ((name, spec),) = import_sigma(SIGMA, where="rule")
    return arm(name, spec, {})


def at(second: float, **changes: Any) -> AuditRecord:
    stamp = f"2026-01-01T{int(second) // 3600:02}:{int(second) // 60 % 60:02}:{second % 60:09.6f}Z"
    event = {"verb": "create", "stage": "ResponseComplete", "stageTimestamp": stamp, "annotations": {"a": "b"},
             "objectRef": {"resource": "pods"}, "requestObject": {"spec": {"containers": []}}, **changes}  # fmt: skip
    kept = {name: value for name, value in event.items() if value is not None}
    return msgspec.json.decode(json.dumps(kept), type=AuditRecord)


def hour(sightings: Sightings, **changes: Any) -> None:
    for number in range(ENOUGH + 1):
        sightings.note([at(number * SPAN / ENOUGH, **changes)])


@pytest.fixture
def sightings() -> Sightings:
    made = Sightings()
    made.watch(rule().compiled)
    return made


def test_a_field_that_is_never_there_is_unknown_after_an_hour(sightings: Sightings) -> None:
    """Not after a minute, and not before enough events were looked at."""
    name = rule().name
    for second in range(ENOUGH * 2):
        sightings.note([at(second / 10)])
    assert sightings.unknown(name) == {}
    sightings.note([at(SPAN)])
    assert sightings.unknown(name) == {
        "requestObject.spec.volumes.secret.secretName": ENOUGH * 2 + 1,
        "annotations.example.com/never": ENOUGH * 2 + 1,
    }


def test_a_field_that_held_a_value_once_is_known(sightings: Sightings) -> None:
    """One Pod with a secret is enough."""
    body = {"spec": {"volumes": [{"secret": {"secretName": "x"}}]}}
    sightings.note([at(0, requestObject=body)])
    hour(sightings)
    assert set(sightings.unknown(rule().name)) == {"annotations.example.com/never"}


@pytest.mark.parametrize("other", [{"verb": "get"}, {"objectRef": {"resource": "nodes"}}])
def test_events_that_the_rule_is_not_about_say_nothing(sightings: Sightings, other: dict[str, Any]) -> None:
    """An hour of reads does not tell what Pods are made of."""
    hour(sightings, **other)
    assert sightings.unknown(rule().name) == {}


def test_an_event_without_a_body_says_nothing_about_bodies(sightings: Sightings) -> None:
    """That is for the condition NeedsLevel to say."""
    hour(sightings, requestObject=None)
    assert set(sightings.unknown(rule().name)) == {"annotations.example.com/never"}


def test_the_status_says_so_until_the_rule_changes() -> None:
    """A condition with the fields; another version is looked at anew, a rule that is gone not at all."""
    engine = Engine()
    armed = rule()
    engine.arm(armed)
    for number in range(ENOUGH + 1):
        list(engine.inspect_batch([at(number * SPAN / ENOUGH)]))
    unseen = engine.sightings.unknown(armed.name)
    (remark,) = [
        one for one in remarks(armed, engine.levels, at(0).seen_at, unseen=unseen) if one.type == "UnknownField"
    ]
    assert remark.reason == "NeverSeen"
    assert f"annotations.example.com/never ({ENOUGH + 1} events)" in remark.message
    engine.arm(rule())
    assert engine.sightings.unknown(armed.name) == {}
    engine.forget(armed.name)
    list(engine.inspect_batch([at(SPAN * 2)]))
    assert engine.sightings.unknown(armed.name) == {}


def test_native_rules_are_not_looked_after() -> None:
    """Whoever wrote one here knows the fields, and its tests know the paths."""
    made = Sightings()
    asked = {"requestObjectGlob": [{"jsonPath": "$.spec.nothing", "patterns": ["*"]}]}
    made.watch(arm("native", rule_spec(match=asked), {}).compiled)
    hour(made)
    assert made.unknown("native") == {}
