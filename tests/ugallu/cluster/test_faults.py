"""The cluster that fails on demand."""

import pytest

from ugallu.api.sigma import SigmaRule
from ugallu.cluster.port import AlreadyExistsError, NotFoundError, OutdatedError, UnavailableError
from ugallu.testing.cluster import FaultyCluster, memory_cluster, outdated, scripted, seeded, unavailable
from ugallu.testing.contracts.cluster import rule


async def test_a_fault_before_leaves_no_trace_and_one_after_only_loses_the_answer() -> None:
    """Refused: nothing there. Timed out: it was done, and the next try learns it."""
    cluster = FaultyCluster(memory_cluster(), scripted(unavailable(), unavailable(after=True), outdated()))
    with pytest.raises(UnavailableError):
        await cluster.create(rule("a"))
    with pytest.raises(NotFoundError):
        await cluster.get(SigmaRule, "a")
    with pytest.raises(UnavailableError):
        await cluster.create(rule("a"))
    assert (await cluster.get(SigmaRule, "a")).metadata.name == "a"
    with pytest.raises(OutdatedError):
        await cluster.patch(SigmaRule, "a", {"spec": {"description": "d"}})
    with pytest.raises(AlreadyExistsError):
        await cluster.create(rule("a"))
    assert [call.verb for call, _ in cluster.faults] == ["create", "create", "patch"]


async def test_a_seed_gives_the_same_faults_again() -> None:
    """A failure found is a failure found again; there is a way through every time."""

    async def played() -> list[bool]:
        cluster = FaultyCluster(memory_cluster(), seeded(3, 0.9, in_row=4))
        outcome = []
        for number in range(40):
            try:
                await cluster.create(rule(f"r{number}"))
                outcome.append(True)
            except UnavailableError:
                outcome.append(False)
        return outcome

    first = await played()
    assert first == await played()
    assert True in first
    assert "FFFFF" not in "".join("T" if fine else "F" for fine in first)
