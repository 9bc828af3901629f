"""Reconciling: level-based, one object at a time, and patient in the way that the error asks for."""

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager

import anyio
import pytest
import structlog

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec
from ugallu.api.meta import Metadata, ObjectReference
from ugallu.cluster.port import Change, Key, key_of
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError
from ugallu.metrics import Metrics
from ugallu.operator.contract import After
from ugallu.supervisor.reconciling import Reconciling
from ugallu.testing.clock import ManualClock, settled

Told = Callable[[Change, AttestationBundle], None]


def bundle(name: str, generation: int = 1, version: str = "1") -> AttestationBundle:
    return AttestationBundle(
        metadata=Metadata(name=name, uid=f"uid-{name}", generation=generation, resource_version=version),
        spec=AttestationBundleSpec(attested_for=ObjectReference(name="event")),
    )


class Shown:
    """A view whose objects the test changes by hand."""

    def __init__(self, *objects: AttestationBundle) -> None:
        self.objects = {key_of(item): item for item in objects}
        self.told: list[Told] = []
        self.complete = anyio.Event()
        self.complete.set()

    def get(self, name: str, namespace: str = "") -> AttestationBundle | None:
        return self.objects.get(Key(namespace, name))

    def items(self) -> list[AttestationBundle]:
        return list(self.objects.values())

    def listen(self, told: Told) -> Callable[[], None]:
        for item in self.items():
            told(Change.ADDED, item)
        self.told.append(told)
        return lambda: self.told.remove(told)

    async def synced(self) -> None:
        await self.complete.wait()

    def index(self, name: str, values: Callable[[AttestationBundle], Iterable[Hashable]]) -> None:
        raise NotImplementedError

    def by(self, name: str, value: Hashable) -> list[AttestationBundle]:
        raise NotImplementedError

    async def until(self, holds: Callable[[], bool]) -> None:
        assert holds()

    def put(self, item: AttestationBundle) -> None:
        change = Change.MODIFIED if key_of(item) in self.objects else Change.ADDED
        self.objects[key_of(item)] = item
        for told in self.told:
            told(change, item)

    def remove(self, item: AttestationBundle) -> None:
        del self.objects[key_of(item)]
        for told in self.told:
            told(Change.DELETED, item)


class Scripted:
    """A reconciler that answers each call from a list: None, After, or an error to raise."""

    watches = AttestationBundle

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []
        self.left: list[Key] = []
        self.hold: anyio.Event | None = None

    async def reconcile(self, resource: AttestationBundle) -> After | None:
        self.calls.append(f"{resource.metadata.name}@{resource.metadata.resource_version}")
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, After) else None

    async def gone(self, key: Key) -> None:
        self.left.append(key)


class At:
    def __init__(self, view: Shown, reconciler: Scripted) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.view = view
        self.work = Reconciling(
            reconciler,
            view,
            operator="test",
            clock=self.clock,
            metrics=self.metrics,
            log=structlog.wrap_logger(structlog.ReturnLogger()),
            changed=lambda: None,
        )

    def counted(self, outcome: str) -> float:
        return self.metrics.value("ugallu_reconcile_total", operator="test", kind="AttestationBundle", outcome=outcome)


@asynccontextmanager
async def at_work(view: Shown, reconciler: Scripted) -> AsyncIterator[At]:
    at = At(view, reconciler)
    async with anyio.create_task_group() as tg:
        tg.start_soon(at.work.run)
        await settled()
        yield at
        at.work.close()


async def test_it_is_armed_once_every_object_of_the_first_list_had_its_turn() -> None:
    """Sources may start only then: an error counts as a turn, an object still under way does not."""
    reconciler = Scripted(PermanentError("bad"), None)
    reconciler.hold = anyio.Event()
    async with at_work(Shown(bundle("a"), bundle("b")), reconciler) as at:
        assert not at.work.armed.is_set()
        reconciler.hold.set()
        await settled()
        assert at.work.armed.is_set()
        assert sorted(reconciler.calls) == ["a@1", "b@1"]


async def test_it_is_not_armed_before_the_first_list_is_complete() -> None:
    """An empty view that has not been filled yet proves nothing."""
    view = Shown()
    view.complete = anyio.Event()
    async with at_work(view, Scripted()) as at:
        assert not at.work.armed.is_set()
        view.complete.set()
        await settled()
        assert at.work.armed.is_set()


@pytest.mark.parametrize("error", [TransientError("away"), ConflictError("stale"), ZeroDivisionError("bug")])
async def test_what_may_succeed_later_is_tried_again_with_growing_patience(error: Exception) -> None:
    """The delays grow; success ends them; until then the operator is not idle."""
    reconciler = Scripted(error, error, None)
    async with at_work(Shown(bundle("a")), reconciler) as at:
        assert (len(reconciler.calls), at.work.idle) == (1, False)
        await at.clock.advance(0.3)
        assert len(reconciler.calls) == 1
        await at.clock.advance(0.4)
        assert len(reconciler.calls) == 2
        await at.clock.advance(0.7)
        assert len(reconciler.calls) == 2
        await at.clock.advance(0.6)
        assert (len(reconciler.calls), at.work.idle) == (3, True)
        assert at.counted("done") == 1


async def test_a_server_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    """429 with Retry-After: not earlier than it asks."""
    reconciler = Scripted(TransientError("busy", retry_after=20))
    async with at_work(Shown(bundle("a")), reconciler) as at:
        await at.clock.advance(19)
        assert len(reconciler.calls) == 1
        await at.clock.advance(2)
        assert len(reconciler.calls) == 2


async def test_what_was_refused_is_looked_at_again_though_nobody_waits_for_it() -> None:
    """A server that has just started refuses for a moment what it allows, and rights are granted while we run."""
    reconciler = Scripted(RefusedError("no rights"), RefusedError("no rights"), None)
    async with at_work(Shown(bundle("a")), reconciler) as at:
        assert (len(reconciler.calls), at.work.idle) == (1, True)
        await at.clock.advance(0.7)
        assert len(reconciler.calls) == 2
        await at.clock.advance(1.3)
        assert (len(reconciler.calls), at.counted("done")) == (3, 1)
    forever = Scripted(*[RefusedError("no rights")] * 100)
    async with at_work(Shown(bundle("a")), forever) as at:
        for _ in range(36):
            await at.clock.advance(100)
        assert 12 <= len(forever.calls) <= 24


async def test_what_will_never_succeed_waits_for_a_new_generation() -> None:
    """Neither time nor a change of status brings it back, a change of spec does."""
    reconciler = Scripted(PermanentError("bad spec"))
    async with at_work(Shown(bundle("a")), reconciler) as at:
        await at.clock.advance(3600)
        at.view.put(bundle("a", generation=1, version="2"))
        await settled()
        assert (reconciler.calls, at.work.idle) == (["a@1"], True)
        at.view.put(bundle("a", generation=2, version="3"))
        await settled()
        assert reconciler.calls == ["a@1", "a@3"]


async def test_a_status_written_by_a_failing_try_does_not_call_the_next_one() -> None:
    """Each failed try patches status, which is a change; the backoff must still hold."""
    view = Shown(bundle("a"))

    class Writes(Scripted):
        async def reconcile(self, resource: AttestationBundle) -> After | None:
            view.put(bundle("a", version=str(len(self.calls) + 2)))
            return await super().reconcile(resource)

    reconciler = Writes(*(TransientError("away") for _ in range(50)))
    async with at_work(view, reconciler) as at:
        await settled()
        assert len(reconciler.calls) == 1
        await at.clock.advance(0.7)
        assert len(reconciler.calls) == 2


async def test_an_object_is_looked_at_again_when_it_asked_to_be() -> None:
    """`After` is a visit: it happens, and nobody waits for it to call the operator idle."""
    reconciler = Scripted(After(60))
    async with at_work(Shown(bundle("a")), reconciler) as at:
        assert at.work.idle
        await at.clock.advance(59)
        assert len(reconciler.calls) == 1
        await at.clock.advance(2)
        assert len(reconciler.calls) == 2


async def test_changes_during_a_turn_cause_one_more_turn_with_the_latest() -> None:
    """However often an object changes, it is reconciled once more, as it is then; never twice at a time."""
    reconciler = Scripted()
    reconciler.hold = anyio.Event()
    async with at_work(Shown(bundle("a")), reconciler) as at:
        for version in ("2", "3", "4"):
            at.view.put(bundle("a", version=version))
        await settled()
        assert reconciler.calls == ["a@1"]
        assert at.work.under_way == [Key("", "a")]
        reconciler.hold.set()
        await settled()
        assert reconciler.calls == ["a@1", "a@4"]


async def test_a_deletion_is_told() -> None:
    """`gone` gets the key, also when the object had been given up."""
    reconciler = Scripted(PermanentError("bad"))
    item = bundle("a")
    async with at_work(Shown(item), reconciler) as at:
        at.view.remove(item)
        await settled()
        assert reconciler.left == [Key("", "a")]


async def test_closing_finishes_what_is_under_way_and_begins_nothing() -> None:
    """Of a hundred objects only those in hand are finished."""
    reconciler = Scripted()
    reconciler.hold = anyio.Event()
    at = At(Shown(*(bundle(f"b{n:03}") for n in range(100))), reconciler)
    async with anyio.create_task_group() as tg:
        tg.start_soon(at.work.run)
        await settled()
        in_hand = len(reconciler.calls)
        assert 1 < in_hand < 100
        at.work.close()
        reconciler.hold.set()
    assert len(reconciler.calls) == in_hand
    assert at.counted("done") == in_hand
