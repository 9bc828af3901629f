"""The shared cache."""

import anyio
import pytest

from ugallu.api.sigma import SigmaRule
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cache, Change
from ugallu.metrics import Metrics
from ugallu.testing.cluster import FaultyCluster, memory_cluster, running_cache
from ugallu.testing.contracts.cluster import SlimRule, rule


async def test_a_view_shows_what_the_cluster_holds() -> None:
    """get and items follow the cluster; until wakes on every change."""
    cluster = memory_cluster()
    made = await cluster.create(rule("a"))
    async with running_cache(cluster) as cache:
        view = cache.view(SigmaRule)
        await view.synced()
        assert view.get("a") == made
        assert view.get("a", "elsewhere") is None
        await cluster.create(rule("b"))
        with anyio.fail_after(10):
            await view.until(lambda: view.get("b") is not None)
        assert {item.metadata.name for item in view.items()} == {"a", "b"}
        await cluster.delete(SigmaRule, "a")
        with anyio.fail_after(10):
            await view.until(lambda: view.get("a") is None)


async def test_views_of_one_scope_share_an_informer() -> None:
    """However many ask: one list and one watch for each kind and scope."""
    cluster = FaultyCluster(memory_cluster(), lambda _: None)
    async with running_cache(cluster) as cache:
        views = [cache.view(SigmaRule) for _ in range(5)]
        assert len({id(view) for view in views}) == 1
        selected, slim = cache.view(SigmaRule, labels="a=b"), cache.view(SlimRule)
        for view in (*views, selected):
            await view.synced()
        await slim.synced()
    assert sum(call.verb == "list" for call in cluster.calls) == 2


async def test_a_view_asked_for_before_the_cache_runs_starts_with_it() -> None:
    """The order of asking and running does not matter."""
    cluster = memory_cluster()
    await cluster.create(rule("a"))
    cache: Cache = SharedCache(cluster)
    early = cache.view(SigmaRule)
    assert list(early.items()) == []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        with anyio.fail_after(10):
            await early.synced()
        assert early.get("a") is not None
        tasks.cancel_scope.cancel()


async def test_a_view_asked_for_while_the_cache_runs_starts_at_once() -> None:
    """A newcomer need not wait for anything."""
    cluster = memory_cluster()
    await cluster.create(rule("a"))
    async with running_cache(cluster) as cache:
        await anyio.wait_all_tasks_blocked()
        view = cache.view(SigmaRule)
        with anyio.fail_after(10):
            await view.synced()
        assert view.get("a") is not None


async def test_listeners_hear_all_there_is_and_all_that_comes() -> None:
    """A listener gets the present as ADDED at once, then each change once, until it unlistens."""
    cluster = memory_cluster()
    await cluster.create(rule("a"))
    async with running_cache(cluster) as cache:
        view = cache.view(SigmaRule)
        await view.synced()
        heard: list[tuple[str, str]] = []
        unlisten = view.listen(lambda change, item: heard.append((change, item.metadata.name)))
        assert heard == [("ADDED", "a")]
        await cluster.create(rule("b"))
        await cluster.delete(SigmaRule, "a")
        with anyio.fail_after(10):
            await view.until(lambda: view.get("a") is None)
        unlisten()
        unlisten()
        await cluster.create(rule("c"))
        with anyio.fail_after(10):
            await view.until(lambda: view.get("c") is not None)
    assert heard == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]


async def test_a_listener_that_comes_or_goes_amid_a_change_is_told_once() -> None:
    """Listening from within a listener gives the new object once; unlistening there silences the other at once."""
    cluster = memory_cluster()
    async with running_cache(cluster) as cache:
        view = cache.view(SigmaRule)
        await view.synced()
        late: list[str] = []
        silenced: list[str] = []

        def first(change: Change, _: SigmaRule) -> None:
            if change is Change.ADDED and not late:
                unlisten()
                view.listen(lambda change, item: late.append(f"{change} {item.metadata.name}"))

        view.listen(first)
        unlisten = view.listen(lambda change, _: silenced.append(change))
        await cluster.create(rule("a"))
        with anyio.fail_after(10):
            await view.until(lambda: view.get("a") is not None)
    assert late == ["ADDED a"]
    assert silenced == []


async def test_the_cache_counts_what_it_holds() -> None:
    """The gauge follows adds and deletes."""
    cluster, metrics = memory_cluster(), Metrics()
    cache = SharedCache(cluster, metrics=metrics)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        view = cache.view(SigmaRule)
        for name in "abc":
            await cluster.create(rule(name))
        await cluster.delete(SigmaRule, "b")
        with anyio.fail_after(10):
            await view.until(lambda: {item.metadata.name for item in view.items()} == {"a", "c"})
        assert metrics.value("ugallu_cache_objects", kind="SigmaRule") == 2
        tasks.cancel_scope.cancel()


async def test_a_selector_that_makes_no_sense_is_said_when_asked() -> None:
    """A view with a broken selector fails its user, not the cache for ever in silence."""
    async with running_cache(memory_cluster()) as cache:
        view = cache.view(SigmaRule, labels="a in")
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await view.synced()
