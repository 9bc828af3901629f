"""An informer is right whatever happens to the connection."""

import random
from collections.abc import AsyncGenerator, Iterable
from typing import Any, TypeVar

import anyio
import pytest

from ugallu.api.meta import Resource
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.informer import AWAY, Informer
from ugallu.cluster.port import (
    Change,
    Cluster,
    ForbiddenError,
    GoneError,
    InvalidError,
    Key,
    Notice,
    Page,
    UnavailableError,
    list_all,
)
from ugallu.errors import UgalluError
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import Fault, FaultyCluster, Plan, memory_cluster, scripted, unavailable
from ugallu.testing.contracts.cluster import rule

R = TypeVar("R", bound=Resource)


class Hasty(ManualClock):
    """A clock whose sleeps are over at once; `slept` tells how long they would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await anyio.lowlevel.checkpoint()


class Following:
    """An informer at work, and what it said."""

    def __init__(self, cluster: Cluster, *, labels: str = "") -> None:
        self.clock = Hasty()
        self.told: list[tuple[str, str]] = []
        self.state: dict[str, str] = {}
        self.causes: list[str] = []
        self.errors: list[UgalluError] = []
        self.informer = Informer(
            cluster,
            SigmaRule,
            told=self._tell,
            clock=self.clock,
            labels=labels,
            relisted=self.causes.append,
            failed=self.errors.append,
        )
        self._news = anyio.Event()

    def _tell(self, change: Change, item: SigmaRule, before: SigmaRule | None) -> None:
        name, version = item.metadata.name, item.metadata.resource_version
        if change is Change.ADDED:
            assert name not in self.state
            assert before is None
        else:
            assert before is not None
            assert before.metadata.resource_version == self.state[name]
            assert self.state[name] != version or change is Change.DELETED
        if change is Change.DELETED:
            del self.state[name]
            assert Key("", name) not in self.informer.objects
        else:
            self.state[name] = version
            assert self.informer.objects[Key("", name)] == item
        self.told.append((change.value, name))
        self._news.set()

    async def until(self, *told: tuple[str, str]) -> None:
        with anyio.fail_after(10):
            while not set(told) <= set(self.told):
                self._news = anyio.Event()
                await self._news.wait()


def names(items: Iterable[SigmaRule]) -> set[str]:
    return {item.metadata.name for item in items}


async def test_it_lists_all_pages_then_follows() -> None:
    """What is there is ADDED, then each change is told once."""
    cluster = memory_cluster()
    for number in range(1203):
        await cluster.create(rule(f"r{number}"))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        assert len(following.informer.objects) == 1203
        await cluster.patch_status(SigmaRule, "r5", {"matchCount": 1})
        await cluster.delete(SigmaRule, "r7")
        await cluster.create(rule("new"))
        await following.until(("ADDED", "new"))
        tasks.cancel_scope.cancel()
    assert following.told[1203:] == [("MODIFIED", "r5"), ("DELETED", "r7"), ("ADDED", "new")]
    assert following.causes == []


async def test_a_broken_watch_resumes_without_a_list() -> None:
    """After a lost connection the watch goes on where it was: no list, nothing told twice."""
    cluster = FaultyCluster(
        memory_cluster(), scripted(None, unavailable(), None, unavailable(after=True), verbs=["notice"])
    )
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        for number in range(5):
            await cluster.create(rule(f"r{number}"))
        await following.until(("ADDED", "r4"))
        tasks.cancel_scope.cancel()
    assert following.told == [("ADDED", f"r{number}") for number in range(5)]
    assert len(following.errors) == 2
    assert sum(call.verb == "list" for call in cluster.calls) == 1
    assert len(following.clock.slept) == 2


class Gated(FaultyCluster):
    """Lists wait for the gate."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        super().__init__(cluster, plan)
        self.gate = anyio.Event()
        self.gate.set()

    async def list(self, kind: type[R], **scope: Any) -> Page[R]:
        await self.gate.wait()
        return await super().list(kind, **scope)


async def test_after_lost_history_it_lists_anew_and_tells_the_difference() -> None:
    """When the watch is too old: what went meanwhile is DELETED, what came ADDED, what changed MODIFIED, rest silent."""
    inner = memory_cluster()
    for name in ("stays", "changes", "goes", "reborn"):
        await inner.create(rule(name))
    gone = Fault(GoneError("too old"))
    cluster = Gated(inner, scripted(gone, verbs=["notice"]))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        following.told.clear()
        cluster.gate = anyio.Event()
        await inner.patch(SigmaRule, "changes", {"spec": {"description": "d"}})
        await inner.delete(SigmaRule, "goes")
        await inner.delete(SigmaRule, "reborn")
        await inner.create(rule("reborn"))
        await inner.create(rule("comes"))
        assert following.told == []
        cluster.gate.set()
        await following.until(("ADDED", "comes"))
        tasks.cancel_scope.cancel()
    assert sorted(following.told) == [
        ("ADDED", "comes"),
        ("ADDED", "reborn"),
        ("DELETED", "goes"),
        ("DELETED", "reborn"),
        ("MODIFIED", "changes"),
    ]
    assert following.causes == ["history too short"]


@pytest.mark.parametrize(
    "error", [UnavailableError("no connection"), GoneError("token too old"), ForbiddenError("no rights yet")], ids=repr
)
async def test_a_first_list_that_fails_is_tried_again(error: UgalluError) -> None:
    """Whatever the list fails of, in the middle too, it is made again after a pause, and half a list is never shown."""
    inner = memory_cluster()
    for number in range(700):
        await inner.create(rule(f"r{number}"))
    cluster = FaultyCluster(inner, scripted(Fault(error), None, Fault(error), verbs=["list"]))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        with anyio.fail_after(10):
            await following.informer.synced.wait()
        tasks.cancel_scope.cancel()
    assert len(following.informer.objects) == 700
    assert following.errors == [error, error]
    assert len(following.told) == 700
    assert following.causes == []


async def test_pauses_grow_and_the_servers_wish_is_followed() -> None:
    """Backoff doubles from try to try; Retry-After stands above it, spread so that not all come back at once."""
    wish = Fault(UnavailableError("busy", retry_after=7.0))
    cluster = FaultyCluster(memory_cluster(), scripted(*[unavailable()] * 4, wish, verbs=["list"]))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        tasks.cancel_scope.cancel()
    first, second, third, fourth, last = following.clock.slept
    assert first < second < third < fourth
    assert 7.0 <= last <= 7.0 * 1.2


async def test_a_server_that_says_at_once_is_given_a_moment() -> None:
    """Retry-After: 0, and a date that has passed, are no licence to ask without a pause."""
    wish = Fault(UnavailableError("busy", retry_after=0.0))
    cluster = FaultyCluster(memory_cluster(), scripted(*[wish] * 4, verbs=["list"]))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        tasks.cancel_scope.cancel()
    assert len(following.clock.slept) == 4
    assert min(following.clock.slept) >= 0.4


async def test_after_a_long_outage_it_is_back_within_seconds() -> None:
    """Pauses end at a few seconds while nobody answers; without rights they grow on, since a person must act."""
    away = FaultyCluster(memory_cluster(), scripted(*[unavailable()] * 12, verbs=["list"]))
    forbidden = FaultyCluster(memory_cluster(), scripted(*[Fault(ForbiddenError("no"))] * 12, verbs=["list"]))
    longest = []
    for cluster in (away, forbidden):
        following = Following(cluster)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(following.informer.run)
            await following.informer.synced.wait()
            tasks.cancel_scope.cancel()
        assert len(following.clock.slept) == 12
        longest.append(max(following.clock.slept))
    assert longest[0] <= 1.2 * AWAY
    assert longest[1] > 20


class Quiet(FaultyCluster):
    """Watches that say nothing for a minute and break then."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, lambda _: None)
        self.clock = Hasty()
        self.watched = 0
        self.done = anyio.Event()

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        self.watched += 1
        await self.clock.advance(60.0)
        if self.watched <= 6:
            raise UnavailableError("cut")
        self.done.set()
        async for line in super().watch(kind, since=since, namespace=namespace, labels=labels, fields=fields):
            yield line


async def test_a_watch_that_was_there_was_no_failure() -> None:
    """A server that is restarted every minute finds us back at once each time, whatever it had to say in between."""
    cluster = Quiet(memory_cluster())
    following = Following(cluster)
    cluster.clock = following.clock
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        with anyio.fail_after(10):
            await cluster.done.wait()
        tasks.cancel_scope.cancel()
    assert max(following.clock.slept) <= 0.6


async def test_bookmarks_move_the_point_of_resumption() -> None:
    """A quiet selection survives a history that others fill, even if the connection breaks then."""
    inner = EmbeddedCluster.in_memory(history=50, bookmark_seconds=0.01)
    cluster = FaultyCluster(inner, lambda _: None)
    following = Following(cluster, labels="mine=yes")
    bookmarked = anyio.Event()

    def after_bookmark(call: object) -> Fault | None:
        if getattr(call, "verb", "") == "notice" and len(inner_names) == 200:
            bookmarked.set()
            cluster.plan = lambda _: None
            return unavailable(after=True)
        return None

    inner_names: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        cluster.plan = after_bookmark
        for number in range(200):
            await inner.create(rule(f"other{number}"))
            inner_names.append(f"other{number}")
        with anyio.fail_after(10):
            await bookmarked.wait()
        await inner.create(rule("mine", labels={"mine": "yes"}))
        await following.until(("ADDED", "mine"))
        tasks.cancel_scope.cancel()
    assert following.causes == []


class Spoken(FaultyCluster):
    """Watches say what the test says; lists are the cluster's."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, lambda _: None)
        self.lines: list[Notice[Any]] = []

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        for line in self.lines:
            yield line
        await anyio.sleep_forever()


async def test_a_deletion_told_late_spares_the_successor() -> None:
    """What is said to be gone must be what is there: an object of the same name that came since stays."""
    cluster = Spoken(memory_cluster())
    past = await cluster.create(rule("a"))
    await cluster.delete(SigmaRule, "a")
    await cluster.create(rule("a"))
    end = rule("end").with_metadata(uid="u", resource_version="2")
    cluster.lines = [Notice(Change.DELETED, "1", past), Notice(Change.ADDED, "2", end)]
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.until(("ADDED", "end"))
        tasks.cancel_scope.cancel()
    assert following.told == [("ADDED", "a"), ("ADDED", "end")]


async def test_what_changed_into_something_unreadable_is_gone() -> None:
    """A watch that cannot read an object says so; what was held of it is no longer there, and it is counted."""
    cluster = Spoken(memory_cluster())
    await cluster.create(rule("a"))
    cluster.lines = [Notice(Change.MODIFIED, "7", unread=Key("", name)) for name in ("a", "never-read")]
    cluster.lines.append(Notice(Change.ADDED, "8", rule("end").with_metadata(uid="u", resource_version="8")))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.until(("ADDED", "end"))
        tasks.cancel_scope.cancel()
    assert following.told == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "end")]
    assert following.informer.skipped == 2


class Streaming(FaultyCluster):
    """Offers lists as the beginning of watches; counts in `served` how often it was asked."""

    def __init__(self, cluster: Cluster, *faults: UgalluError | None) -> None:
        super().__init__(cluster, lambda _: None)
        self.served = 0
        self._faults = list(faults)

    async def stream(
        self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        self.served += 1
        fault = self._faults.pop(0) if self._faults else None
        if isinstance(fault, InvalidError):
            raise fault
        items, version = await list_all(self._cluster, kind)
        for item in items:
            yield Notice(Change.ADDED, item.metadata.resource_version, item)
            if fault is not None:
                raise fault
        yield Notice(Change.BOOKMARK, version)
        async for notice in self.watch(kind, since=version):
            yield notice


async def test_a_list_may_come_as_the_beginning_of_a_watch() -> None:
    """Where the cluster offers it, nothing is listed; half a stream is never shown, and is begun anew."""
    cluster = Streaming(memory_cluster(), UnavailableError("cut"))
    for name in "abc":
        await cluster.create(rule(name))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        assert names(following.informer.objects.values()) == {"a", "b", "c"}
        await cluster.delete(SigmaRule, "b")
        await following.until(("DELETED", "b"))
        tasks.cancel_scope.cancel()
    assert following.told == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"), ("DELETED", "b")]
    assert cluster.served == 2
    assert not [call for call in cluster.calls if call.verb == "list"]


async def test_a_server_that_serves_no_such_lists_is_asked_once() -> None:
    """Then it is list and watch, as everywhere, without a pause."""
    cluster = Streaming(memory_cluster(), InvalidError("sendInitialEvents is forbidden"))
    await cluster.create(rule("a"))
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        await following.informer.synced.wait()
        await cluster.create(rule("b"))
        await following.until(("ADDED", "b"))
        tasks.cancel_scope.cancel()
    assert cluster.served == 1
    assert following.clock.slept == []


@pytest.mark.parametrize("seed", range(5))
async def test_under_random_faults_it_ends_at_the_truth(seed: int) -> None:
    """Broken lists, broken watches and lost history in any order: the state told is in the end the state stored."""
    dice = random.Random(seed)
    inner = memory_cluster(history=40)

    def plan(call: object) -> Fault | None:
        if getattr(call, "verb", "") not in ("list", "notice") or dice.random() > 0.2:
            return None
        if dice.random() < 0.3:
            return Fault(GoneError("too old"))
        return unavailable(after=dice.random() < 0.5)

    faulty: Plan = plan
    cluster = FaultyCluster(inner, faulty)
    following = Following(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.informer.run)
        for step in range(300):
            name = f"r{dice.randrange(8)}"
            stored = names((await inner.list(SigmaRule)).items)
            if name not in stored:
                await inner.create(rule(name))
            elif dice.random() < 0.4:
                await inner.delete(SigmaRule, name)
            else:
                await inner.patch_status(SigmaRule, name, {"matchCount": step + 1})
        await inner.create(rule("end"))
        await following.until(("ADDED", "end"))
        tasks.cancel_scope.cancel()
    items, _ = await list_all(inner, SigmaRule)
    assert following.state == {item.metadata.name: item.metadata.resource_version for item in items}
    assert cluster.faults
