"""The shared cache."""

from typing import Any, ClassVar, TypeVar

import anyio
import msgspec
import pytest

from ugallu.api.core import Lease
from ugallu.api.meta import Kind, Metadata, Resource, encode
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cache, Change, Page
from ugallu.cluster.weight import Scales
from ugallu.metrics import Metrics
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import FaultyCluster, memory_cluster, running_cache, unavailable
from ugallu.testing.contracts.cluster import SlimRule, rule

R = TypeVar("R", bound=Resource)


class DescribedFew(Resource, frozen=True, kw_only=True):
    """A rule with its status as it comes, and nothing on which it insists."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info
    status: dict[str, Any] = {}


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
        await settled()
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


class Held(FaultyCluster):
    """Lists wait for the gate."""

    def __init__(self) -> None:
        super().__init__(memory_cluster(), lambda _: None)
        self.gate = anyio.Event()
        self.gate.set()

    async def list(self, kind: type[R], **scope: Any) -> Page[R]:
        await self.gate.wait()
        return await super().list(kind, **scope)


async def test_a_later_reader_costs_one_list_and_earlier_ones_hear_nothing_of_it() -> None:
    """What comes and goes while the wider list is made is still told, once and in order; nothing else is."""
    cluster, metrics = Held(), Metrics()
    for name in ("stays", "goes"):
        await cluster.create(rule(name))
    cache = SharedCache(cluster, metrics=metrics)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        early = cache.view(SlimRule)
        await early.synced()
        heard: list[str] = []
        early.listen(lambda change, item: heard.append(f"{change} {item.metadata.name}"))
        heard.clear()
        cluster.gate = anyio.Event()
        late = cache.view(SigmaRule)
        told: list[str] = []
        late.listen(lambda change, item: told.append(f"{change} {item.metadata.name}"))
        await cluster.delete(SigmaRule, "goes")
        await cluster.create(rule("passes"))
        await cluster.delete(SigmaRule, "passes")
        await cluster.create(rule("comes"))
        assert list(late.items()) == []
        assert told == []
        assert {item.metadata.name for item in early.items()} == {"stays", "goes"}
        cluster.gate.set()
        with anyio.fail_after(10):
            await late.synced()
            await early.until(lambda: early.get("comes") is not None)
        await cluster.create(rule("end"))
        with anyio.fail_after(10):
            await early.until(lambda: early.get("end") is not None)
        tasks.cancel_scope.cancel()
    assert heard == ["DELETED goes", "ADDED passes", "DELETED passes", "ADDED comes", "ADDED end"]
    assert set(told) == {"ADDED stays", "ADDED comes", "ADDED end"}
    assert late.get("stays") == await cluster.get(SigmaRule, "stays")
    assert metrics.value("ugallu_cache_relists_total", kind="SigmaRule", cause="wider Struct") == 1
    assert sum(call.verb == "list" for call in cluster.calls) == 2


async def test_a_later_reader_of_no_more_costs_nothing() -> None:
    """Who reads less than is held is served at once, from what is held."""
    cluster = Held()
    await cluster.create(rule("a"))
    async with running_cache(cluster) as cache:
        whole = cache.view(DescribedFew)
        await whole.synced()
        cluster.gate = anyio.Event()
        slim = cache.view(SlimRule)
        with anyio.fail_after(10):
            await slim.synced()
        found = slim.get("a")
    assert type(found) is SlimRule
    assert [state.structs for state in cache.state()] == [2]


async def test_an_index_follows_the_objects() -> None:
    """By any number of values an object; what changed them, or goes, is found there no more."""
    cluster = memory_cluster()
    async with running_cache(cluster) as cache:
        view = cache.view(SigmaRule)
        await cluster.create(rule("a", labels={"x": "1", "y": "2"}))
        await view.synced()
        view.index("label", lambda item: item.metadata.labels.values())
        await cluster.create(rule("b", labels={"x": "2"}))
        with anyio.fail_after(10):
            await view.until(lambda: len(list(view.items())) == 2)
        assert [item.metadata.name for item in view.by("label", "1")] == ["a"]
        assert {item.metadata.name for item in view.by("label", "2")} == {"a", "b"}
        assert view.by("label", "3") == ()
        await cluster.patch(SigmaRule, "a", {"metadata": {"labels": {"x": "3"}}})
        await cluster.delete(SigmaRule, "b")
        with anyio.fail_after(10):
            await view.until(lambda: len(list(view.items())) == 1)
        assert [item.metadata.name for item in view.by("label", "3")] == ["a"]
        assert [item.metadata.name for item in view.by("label", "2")] == ["a"]
        assert view.by("label", "1") == ()
        with pytest.raises(KeyError):
            view.by("nobody keeps it", "1")


async def test_a_view_over_some_namespaces_asks_for_these_alone() -> None:
    """Each has a watch of its own, shared with whoever reads that namespace; together they look like one."""
    cluster = FaultyCluster(memory_cluster(), lambda _: None)
    for namespace in "abc":
        await cluster.create(Lease(metadata=Metadata(name="l", namespace=namespace)))
    async with running_cache(cluster) as cache:
        one, two = cache.view(Lease, namespace="a"), cache.view(Lease, namespaces=["a", "b"])
        heard: list[str] = []
        two.listen(lambda change, item: heard.append(f"{change} {item.metadata.namespace}"))
        with anyio.fail_after(10):
            await two.synced()
            await one.synced()
            for namespace in "cba":
                await cluster.delete(Lease, "l", namespace)
            await two.until(lambda: not list(two.items()))
        assert two.get("l", "a") is two.get("l", "c") is None
    assert sorted(heard) == ["ADDED a", "ADDED b", "DELETED a", "DELETED b"]
    assert sorted(state.namespace for state in cache.state()) == ["a", "b"]
    assert sum(call.verb == "list" for call in cluster.calls) == 2


async def test_a_stale_view_is_seen_to_be_stale() -> None:
    """The state tells how long the cluster has been silent, and why."""
    clock = ManualClock()
    cluster = FaultyCluster(memory_cluster(), lambda _: None)
    cache = SharedCache(cluster, clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        view = cache.view(SigmaRule)
        await view.synced()
        cluster.plan = lambda call: unavailable() if call.verb in ("list", "notice") else None
        await clock.advance(5)
        await cluster.create(rule("a"))
        for _ in range(10):
            await clock.advance(30)
        (state,) = cache.state()
        assert (state.kind, state.synced, state.objects) == ("SigmaRule", True, 0)
        assert state.age >= 300
        assert "connection refused" in state.error
        cluster.plan = lambda _: None
        await clock.advance(60)
        with anyio.fail_after(10):
            await view.until(lambda: view.get("a") is not None)
        (state,) = cache.state()
        assert (state.age, state.error, state.objects) == (0.0, "", 1)
        tasks.cancel_scope.cancel()


def test_the_weight_of_objects_is_nearly_what_they_take() -> None:
    """The estimate from a sample is within a fifth of what the allocator counts."""
    import gc
    import tracemalloc

    body = encode(Lease(metadata=Metadata(name="l" * 30, namespace="n" * 20, uid="u" * 36, labels={"a": "b" * 40})))
    decode = msgspec.json.Decoder(Lease).decode
    decode(body)
    scales = Scales()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    held = [decode(body) for _ in range(2000)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for each in held:
        scales.put(each)
    real = (after - before) / len(held) - 8
    assert 0.8 * real <= scales.mean <= 1.2 * real
