"""The attestor over services that fail: a few points here, thousands by hand (see remote.py)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.remote import Points
from ugallu.api.bundle import SigningMode
from ugallu.testing.afar import Shape
from ugallu.testing.trouble import Strike

pytestmark = pytest.mark.faults

KEYLESS = Shape(SigningMode.FULCIO_KEYLESS, generation=1, stamped=True, events=1, burst=False)
HOURS = 40_000.0


@pytest_asyncio.fixture
async def points(tmp_path: Path) -> AsyncIterator[Points]:
    """Points of one seed."""
    async with Points.ready(11, tmp_path) as made:
        yield made


async def test_no_fault_of_others_leaves_a_wrong_history(points: Points) -> None:
    """Whoever is away, late, wrong or killed: each event is attested, logged once a signature, nothing false is sealed."""
    for number in range(10):
        verdict = await points.try_one(number)
        assert not verdict.wrong, (verdict.shape, verdict.struck, verdict.wrong)


@pytest.mark.parametrize("shape", [KEYLESS, KEYLESS._replace(events=3, burst=True)], ids=["alone", "together"])
@pytest.mark.parametrize("fault", ["away", "lost"])
async def test_a_certificate_that_ended_while_the_log_was_away_costs_no_evidence(
    points: Points, shape: Shape, fault: str
) -> None:
    """What the log took in time is good, though its answer was lost; what it would take too late is signed anew, first."""
    calm = await points.try_plan(shape, [])
    at = 1 + calm.calls.index("rekor.test POST /api/v1/log/entries")
    verdict = await points.try_plan(shape, [Strike(at, fault), Strike(at + 1, "down", HOURS)])
    assert not verdict.wrong, verdict.wrong
    asked = [call for call in verdict.calls if call.endswith("/retrieve")]
    certified = [call for call in verdict.calls if call.startswith("fulcio.test")]
    assert asked
    assert shape.burst or len(certified) == (1 if fault == "lost" else 2)


async def test_a_clock_that_is_behind_makes_no_second_entry(points: Points) -> None:
    """By our clock the certificate has not ended, by the log's it has: what counts is how long ago it was signed."""
    calm = await points.try_plan(KEYLESS, [])
    at = 1 + calm.calls.index("rekor.test POST /api/v1/log/entries")
    verdict = await points.try_plan(KEYLESS, [Strike(at, "jump", -1800.0), Strike(at, "down", 700.0)])
    assert not verdict.wrong, verdict.wrong


async def test_every_effect_may_be_the_last(points: Points) -> None:
    """Two sign each statement, and the process dies after any of its effects: both are logged once, and the next goes on."""
    shape = Shape(SigningMode.DUAL, generation=2, stamped=True, events=1, burst=False)
    calm = await points.try_plan(shape, [])
    effects = [
        at for at, call in enumerate(calm.calls, 1) if call.split()[1] in ("POST", "put", "create", "patch_status")
    ]
    assert len(effects) > 12
    for at in effects:
        verdict = await points.try_plan(shape, [Strike(at, "kill-after")])
        assert not verdict.wrong, (verdict.struck, verdict.wrong)
