"""The guard: what a plug-in does wrong costs it one observation."""

from collections.abc import Iterable, Iterator

import anyio
import pytest

from ugallu.api.catalog import CATALOGUE
from ugallu.api.observation import Finding
from ugallu.api.subject import ExternalKind, external
from ugallu.supervisor.guard import attempt, completed, one_by_one
from ugallu.testing.pipeline import Seen

TYPE = CATALOGUE["ExecIntoPod"]


def finding(number: int) -> Finding:
    return Finding(TYPE, external(ExternalKind.USER, "eve"), key=str(number))


class FailsOn:
    observes = Seen

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def inspect(self, seen: Seen) -> Iterator[Finding]:
        yield finding(seen.number)
        if seen.number in self.bad:
            raise ZeroDivisionError


def test_an_error_costs_one_observation_and_the_rest_is_inspected() -> None:
    """Two bad observations among ten: eight neighbours are unharmed and both errors are reported by index."""
    swept = one_by_one(FailsOn(3, 9), [Seen(n) for n in range(10)])
    assert [index for index, _ in swept.found] == list(range(10))
    assert [(index, type(error)) for index, error in swept.failed] == [(3, ZeroDivisionError), (9, ZeroDivisionError)]


def test_a_detector_that_returns_nonsense_fails_alone() -> None:
    """`None` instead of findings is an error like any other."""

    class Nonsense:
        observes = Seen

        def inspect(self, seen: Seen) -> Iterable[Finding]:
            return None  # type: ignore[return-value]

    swept = one_by_one(Nonsense(), [Seen(1), Seen(2)])
    assert not swept.found
    assert len(swept.failed) == 2


def test_findings_take_time_and_correlation_from_what_was_seen() -> None:
    """A detector need not repeat what the observation knows; what it does say stays."""
    seen = [Seen(5)]
    own = Finding(TYPE, external(ExternalKind.USER, "eve"), key="x", correlation="0" * 32)
    swept = completed([(0, finding(5)), (0, own)], seen, "c1")
    assert not swept.failed
    first, second = (found for _, found in swept.found)
    assert first.detected_at == second.detected_at == seen[0].seen_at
    assert first.correlation == seen[0].correlation("c1")
    assert second.correlation == "0" * 32


async def test_a_cancellation_is_no_error() -> None:
    """The guard never swallows a cancellation."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await attempt(anyio.sleep_forever)
        pytest.fail("went on after a cancellation")
    assert scope.cancelled_caught
