"""Whatever happens to lists and watches, every view ends at what the server holds, and no listener was ever lied to."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.meta import Kind, Resource, Wire
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.cache import SharedCache, SharedView
from ugallu.cluster.port import Change, Cluster, GoneError, Notice, UnavailableError, list_all
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import Fault, FaultyCluster, memory_cluster
from ugallu.testing.contracts.cluster.objects import OpenRule, SlimRule, rule

R = TypeVar("R", bound=Resource)

NAMES = ("a", "b", "c")


class WordSpec(Wire, frozen=True, kw_only=True):
    """A rule's description, with a default of its own."""

    description: str = "none"
    enabled: bool = False


class Counted(Wire, frozen=True, kw_only=True):
    """How often a rule has matched."""

    match_count: int = 0


class WordRule(Resource, frozen=True, kw_only=True):
    """A rule as somebody reads it who cares for what it is called and how often it matched."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info
    spec: WordSpec = WordSpec()
    status: Counted = Counted()


class StatedRule(Resource, frozen=True, kw_only=True):
    """A rule that must have a status, which new ones have not."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info
    status: Counted


READERS: tuple[type[Resource], ...] = (SigmaRule, SlimRule, WordRule, StatedRule, OpenRule)


class Hasty(ManualClock):
    """Pauses are over at once."""

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()


class Rough(FaultyCluster):
    """Cuts watches, forgets history, and sends bookmarks twice and late."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, self._plan)
        self.ill: list[str] = []
        """What goes wrong with the next notices or lists, in turn."""

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        past = [since]
        watch = super().watch(kind, since=since, namespace=namespace, labels=labels, fields=fields)
        async with aclosing(watch) as notices:
            async for notice in notices:
                yield notice
                past.append(notice.resource_version)
                if self.ill and self.ill[-1] in ("again", "late"):
                    yield Notice(Change.BOOKMARK, past[-1 if self.ill.pop() == "again" else 0])

    def _plan(self, call: Any) -> Fault | None:
        if call.verb not in ("list", "notice") or not self.ill or self.ill[-1] in ("again", "late"):
            return None
        match self.ill.pop():
            case "gone":
                return Fault(GoneError("too old"))
            case "cut":
                return Fault(UnavailableError("cut"))
            case _:
                return Fault(UnavailableError("cut"), after=True)


class Reader(Generic[R]):
    """Somebody who keeps books of what a view tells him."""

    def __init__(self, view: SharedView[R]) -> None:
        self.view = view
        self.books: dict[str, R] = {}
        self.heard: list[tuple[str, str]] = []
        view.listen(self._hear)
        view.index("label", lambda item: item.metadata.labels.values())

    def _hear(self, change: Change, item: R) -> None:
        name = item.metadata.name
        self.heard.append((change, name))
        known = self.books.get(name)
        if change is Change.ADDED:
            assert known is None
        else:
            assert known is not None
            assert known.metadata.uid == item.metadata.uid
        if change is Change.DELETED:
            del self.books[name]
            assert self.view.get(name) is None
        else:
            self.books[name] = item
            assert self.view.get(name) == item

    def agrees(self, truth: Iterable[Resource]) -> bool:
        """Whether view, books and index say what the server says."""
        wanted = {item.metadata.name: item for item in truth}
        found = {item.metadata.name: item for item in self.view.items()}
        labelled = {value: set() for item in truth for value in item.metadata.labels.values()}  # type: ignore[var-annotated]
        for item in wanted.values():
            for value in item.metadata.labels.values():
                labelled[value].add(item.metadata.name)
        by = {value: {item.metadata.name for item in self.view.by("label", value)} for value in ("x", "y")}
        return wanted == found == self.books and by == {value: labelled.get(value, set()) for value in ("x", "y")}


class Step(NamedTuple):
    """What happens next: a write, a fault, somebody who comes to read, or time for what happened to arrive."""

    what: str
    name: str = ""


steps = st.lists(
    st.one_of(
        st.builds(Step, st.sampled_from(["make", "count", "describe", "label", "drop"]), st.sampled_from(NAMES)),
        st.builds(Step, st.sampled_from(["gone", "cut", "cut after", "again", "late"])),
        st.builds(Step, st.just("read"), st.sampled_from([kind.__name__ for kind in READERS])),
        st.just(Step("rest")),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps)
async def test_every_view_ends_at_what_the_server_holds(history: list[Step]) -> None:
    """Object by object and index by index, through every Struct; and nobody heard of what he did not know."""
    inner = memory_cluster()
    rough = Rough(inner)
    cache = SharedCache(rough, clock=Hasty())
    readers: dict[str, Reader[Any]] = {"SlimRule": Reader(cache.view(SlimRule))}
    kinds = {kind.__name__: kind for kind in READERS}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        for number, step in enumerate(history):
            if step.what == "read":
                if step.name not in readers:
                    readers[step.name] = Reader(cache.view(kinds[step.name]))
            elif step.what == "rest":
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
            elif step.name:
                await write(inner, step, number)
            else:
                rough.ill.insert(0, step.what)
        rough.ill.clear()
        await inner.create(rule("end"))
        for name, reader in readers.items():
            truth, _ = await list_all(inner, kinds[name])
            with anyio.fail_after(10):
                await reader.view.until(agreement(reader, truth))
                await reader.view.synced()
        tasks.cancel_scope.cancel()
    # One watch for all that can be read as one; a spec that is read as anything at all cannot.
    assert len(cache.state()) == (2 if {"OpenRule"} < set(readers) - {"SlimRule"} else 1)


def agreement(reader: Reader[Any], truth: list[Resource]) -> Callable[[], bool]:
    return lambda: reader.agrees(truth)


async def write(cluster: Cluster, step: Step, number: int) -> None:
    """Make a change, if there is what it changes; a name that is taken is given anew."""
    items, _ = await list_all(cluster, SlimRule)
    there = {item.metadata.name for item in items}
    if step.what == "make":
        if step.name in there:
            await cluster.delete(SigmaRule, step.name)
        await cluster.create(rule(step.name))
    elif step.name not in there:
        return
    elif step.what == "drop":
        await cluster.delete(SigmaRule, step.name)
    elif step.what == "count":
        await cluster.patch_status(SigmaRule, step.name, {"matchCount": number + 1})
    elif step.what == "describe":
        await cluster.patch(SigmaRule, step.name, {"spec": {"description": None if number % 3 == 0 else f"d{number}"}})
    else:
        await cluster.patch(SigmaRule, step.name, {"metadata": {"labels": {"l": "xy"[number % 2]}}})
