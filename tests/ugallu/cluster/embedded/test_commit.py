"""Group commit over a store on disk."""

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from ugallu.cluster.embedded.commit import Commits
from ugallu.cluster.embedded.store import Place, Store, Writing
from ugallu.cluster.port import Change, InvalidError
from ugallu.testing.clock import settled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, history=100)
    yield store
    store.close()


@pytest.fixture
def told() -> list[dict[str, int]]:
    return []


@pytest.fixture
def commits(store: Store, told: list[dict[str, int]]) -> Commits:
    assert store.writing is not None
    return Commits(store.writing, told.append, inline=False)


def put(tx: Writing, name: str) -> int:
    tx.put(Place("g/K", "", name), Change.ADDED, b"{}", None, None)
    return tx.upcoming - 1


def stored(store: Store) -> dict[str, int]:
    return {version.name: version.revision for version in store.reading.page("g/K", store.reading.head(), limit=1000)}


async def test_writers_share_commits(store: Store, commits: Commits, told: list[dict[str, int]]) -> None:
    """Those who come while a commit runs are in the next one, all of them; each gets its own result."""
    results: dict[str, int] = {}

    async def write(name: str) -> None:
        results[name] = await commits.run(lambda tx: put(tx, name))

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(write, f"n{number}")
    assert stored(store) == results
    assert len(set(results.values())) == 60
    assert len(told) <= 3
    assert told[0]["g/K"] == min(results.values())


async def test_a_job_that_fails_undoes_itself_alone(store: Store, commits: Commits) -> None:
    """What a failed job had written is gone and its revision free again; its neighbours in the commit stay."""

    def bad(tx: Writing) -> None:
        put(tx, "bad")
        raise InvalidError("no")

    async def fail() -> None:
        with pytest.raises(InvalidError):
            await commits.run(bad)

    async with anyio.create_task_group() as tasks:
        for number in range(9):
            tasks.start_soon(fail)
            tasks.start_soon(commits.run, lambda tx, name=f"n{number}": put(tx, name))
    assert sorted(stored(store)) == [f"n{number}" for number in range(9)]
    assert sorted(stored(store).values()) == list(range(2, 11))


async def test_a_commit_that_fails_leaves_the_numbers_as_they_were(store: Store) -> None:
    """A transaction that is rolled back takes no revision and tells nobody."""
    writing = store.writing
    assert writing is not None

    def fails() -> None:
        with writing.transaction():
            put(writing, "a")
            raise InvalidError("no")

    before = writing.upcoming
    with pytest.raises(InvalidError):
        fails()
    assert writing.upcoming == before
    assert writing.touched == {}
    with writing.transaction():
        put(writing, "b")
    assert stored(store) == {"b": before}


async def test_who_gave_up_in_the_queue_is_not_written(store: Store, commits: Commits) -> None:
    """A write that was cancelled before its commit began is left out."""
    begun, go = threading.Event(), threading.Event()

    def slow(tx: Writing) -> int:
        begun.set()
        assert go.wait(10)
        return put(tx, "slow")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commits.run, slow)
            await anyio.to_thread.run_sync(begun.wait)
            async with anyio.create_task_group() as hasty:
                hasty.start_soon(commits.run, lambda tx: put(tx, "hasty"))
                await settled()
                hasty.cancel_scope.cancel()
            tasks.start_soon(commits.run, lambda tx: put(tx, "next"))
            go.set()
    assert sorted(stored(store)) == ["next", "slow"]
