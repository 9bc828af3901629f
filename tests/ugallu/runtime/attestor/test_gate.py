"""The gate before a back end: shut while it does nothing but fail, and open soon after it answers again."""

import anyio
import pytest

from ugallu.errors import RefusedError, TransientError
from ugallu.metrics import Metrics
from ugallu.runtime.attestor.gate import IN_A_ROW, Gate, ShutError
from ugallu.testing.clock import ManualClock, settled


async def fails() -> None:
    raise TransientError("away")


async def answers() -> str:
    return "here"


def shut(metrics: Metrics) -> bool:
    return metrics.value("ugallu_attestor_backend_shut", backend="log") == 1.0


async def failing(gate: Gate, times: int) -> None:
    for _ in range(times):
        with pytest.raises(TransientError):
            await gate.call(fails)


async def test_it_shuts_after_failures_in_a_row_and_opens_with_a_success() -> None:
    """One fewer leaves it open; shut, nobody asks until the pause is over; then one call opens it."""
    clock, metrics = ManualClock(), Metrics()
    gate = Gate("log", 64, clock, metrics)
    await failing(gate, IN_A_ROW - 1)
    assert await gate.call(answers) == "here"
    await failing(gate, IN_A_ROW)
    assert shut(metrics)
    with pytest.raises(ShutError):
        await gate.call(answers)
    await clock.advance(61)
    assert await gate.call(answers) == "here"
    assert not shut(metrics)


async def test_calls_under_way_when_it_shuts_lengthen_no_pause() -> None:
    """A disk that refuses for a moment fails everything at once: the pause is that of one failure, not of sixty-four."""
    clock, metrics = ManualClock(), Metrics()
    gate, go = Gate("log", 64, clock, metrics), anyio.Event()

    async def fails_later() -> None:
        await go.wait()
        raise TransientError("away")

    async def one() -> None:
        with pytest.raises(TransientError):
            await gate.call(fails_later)

    async with anyio.create_task_group() as tg:
        for _ in range(64):
            tg.start_soon(one)
        await settled()
        go.set()
    with pytest.raises(ShutError) as caught:
        await gate.call(answers)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= 4.0


async def test_a_refusal_says_that_somebody_answers() -> None:
    """Rights are no outage: a back end that refuses is asked on."""
    gate = Gate("log", 1, ManualClock(), Metrics())

    async def refuses() -> None:
        raise RefusedError("no")

    for _ in range(2 * IN_A_ROW):
        with pytest.raises(RefusedError):
            await gate.call(refuses)
    assert await gate.call(answers) == "here"
