"""Every type of event that this release makes is made by some test: a name nobody can emit helps nobody."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.catalog import CATALOGUE
from ugallu.api.sigma import SigmaRule
from ugallu.testing.harness import running
from ugallu_audit_detection.operator import AuditDetection

ROOT = Path(__file__).parents[2]


def record(event: dict[str, object], number: int) -> AuditRecord:
    """Return a test event as it would be in a log, each a request of its own."""
    return msgspec.json.decode(msgspec.json.encode(event | {"auditID": f"house-{number}"}), type=AuditRecord)


async def test_every_type_that_the_example_pack_names_becomes_an_event() -> None:
    """The events that its rules carry as tests go the whole way, from record to SecurityEvent."""
    found = AuditDetection().resources([ROOT / "examples" / "rules"])
    rules = [rule for rule in found if isinstance(rule, SigmaRule)]
    hits = [test.event for rule in rules for test in rule.spec.tests if test.expect == "hit"]
    async with running(AuditDetection) as run:
        for rule in rules:
            await run.cluster.create(rule)
        await run.settle()
        await run.publish(*(record(event, number) for number, event in enumerate(hits)))
        made = {event.spec.type for event in await run.events()}
    assert {rule.spec.emit.security_event_type for rule in rules} <= made


def reported() -> Iterator[str]:
    """Yield the types that our own code names: what it says about itself."""
    for top in ("ugallu/emit", "ugallu/supervisor", "ugallu/runtime/*", "plugins/ugallu_audit_detection"):
        for path in ROOT.glob(f"{top}/*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CATALOGUE:
                    yield node.value


def test_every_type_that_our_own_code_names_is_in_a_test() -> None:
    """Reports about losses, silence and clocks are made somewhere in the tests, by name."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    named = set(reported())
    assert named
    assert {name for name in named if f'"{name}"' not in tests} == set()
