"""A cell: configured live, rebuilt without losing a beat, and what breaks in it stays in it."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from ugallu.api.catalog import CATALOGUE
from ugallu.api.core import Lease
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Condition, Config, Kind, Metadata, Resource, Wire
from ugallu.api.observation import Finding
from ugallu.api.sigma import SigmaEmit, SigmaMatch, SigmaRule, SigmaRuleSpec
from ugallu.api.subject import ExternalKind, external
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.lease import Election
from ugallu.cluster.port import Key
from ugallu.errors import PermanentError, TransientError
from ugallu.operator.contract import After, Grant, Operator, Parts, Placement
from ugallu.operator.platform import Platform
from ugallu.settings import Settings
from ugallu.supervisor.assembly import runnable
from ugallu.testing.clock import settled
from ugallu.testing.harness import Run, running
from ugallu.testing.pipeline import Seen

TYPE = CATALOGUE["ExecIntoPod"]


class StepConfig(Config, frozen=True, kw_only=True):
    step: int = 10
    labels: dict[str, str] = {}


class StepStatus(Wire, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class StepSettings(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Kind("StepSettings", "stepsettings")
    spec: StepConfig = StepConfig()
    status: StepStatus = StepStatus()


class Anything(Resource, frozen=True, kw_only=True):
    """The same kind, for writing and reading what a person may get wrong."""

    kind_info: ClassVar[Kind] = Kind("StepSettings", "stepsettings")
    spec: Any = None
    status: StepStatus = StepStatus()


class HouseSettings(Resource, frozen=True, kw_only=True):
    """As most configs are: in the namespace of this process."""

    kind_info: ClassVar[Kind] = Kind("HouseSettings", "housesettings", namespaced=True)
    spec: StepConfig = StepConfig()
    status: StepStatus = StepStatus()


class Every:
    observes = Seen

    def __init__(self, step: int) -> None:
        self.step = step

    def inspect(self, seen: Seen) -> Iterator[Finding]:
        if seen.number % self.step == 0:
            yield Finding(TYPE, external(ExternalKind.USER, f"user-{seen.number}"), key=str(seen.number))


class Step(Operator[StepConfig]):
    name = "step"
    config = StepConfig
    config_kind: ClassVar[type[Resource] | None] = StepSettings
    emits = (TYPE,)
    grants = (Grant("security.ugallu.io", ("stepsettings/status",), ("patch",)),)
    closed: ClassVar[list[int]] = []

    def build(self, config: StepConfig, platform: Platform) -> Parts:
        if config.step == 0:
            raise PermanentError("a step of 0 goes nowhere", where="spec.step", fix="give 1 or more")
        return Parts(detectors=[Every(config.step)], close=lambda: self.closed.append(config.step))


def settings(**spec: Any) -> Anything:
    return Anything(metadata=Metadata(name="default"), spec=spec)


async def numbers(run: Run) -> list[int]:
    return [int(event.spec.subject.name.removeprefix("user-")) for event in await run.events()]


async def ready(run: Run, status: str) -> Condition:
    """Wait until the config object says this about Ready."""
    view = run.process.cache.view(Anything)

    def found() -> Condition | None:
        now = view.get("default")
        ready = [c for c in now.status.conditions if c.type == "Ready"] if now else []
        return ready[0] if ready and ready[0].status == status else None

    with anyio.fail_after(10):
        await view.until(lambda: found() is not None)
    condition = found()
    assert condition is not None
    return condition


def reason(run: Run, name: str) -> str:
    (cell,) = (cell for cell in run.process.supervisor.cells if cell.name == name)
    return cell.reason


async def test_a_missing_object_means_the_defaults() -> None:
    """Nothing to write before an operator works."""
    async with running(Step) as run:
        await run.publish(*(Seen(n) for n in range(30)))
        assert await numbers(run) == [0, 10, 20]


async def test_a_changed_config_serves_from_the_next_batch_on() -> None:
    """The old Parts end and are closed, once; the new ones begin where they ended."""
    Step.closed.clear()
    async with running(Step) as run:
        await run.publish(*(Seen(n) for n in range(20)))
        await run.settle()
        await run.cluster.apply(settings(step=5), manager="test")
        assert (await ready(run, "True")).reason == "Running"
        await run.publish(*(Seen(n) for n in range(20, 40)))
        assert await numbers(run) == [0, 10, 20, 25, 30, 35]
        assert Step.closed == [10]
    assert Step.closed == [10, 5]


async def test_a_config_is_looked_for_where_the_process_lives() -> None:
    """A namespaced config counts in the process's own namespace, and in no other."""

    class InHouse(Step):
        name = "in-house"
        config_kind: ClassVar[type[Resource] | None] = HouseSettings
        grants = (Grant("security.ugallu.io", ("housesettings/status",), ("patch",)),)

    Step.closed.clear()
    async with running(InHouse) as run:
        for namespace, step in (("elsewhere", 3), ("ugallu-system", 7)):
            metadata = Metadata(name="default", namespace=namespace)
            await run.cluster.create(HouseSettings(metadata=metadata, spec=StepConfig(step=step)))
        view = run.process.cache.view(HouseSettings, namespace="ugallu-system")
        with anyio.fail_after(10):
            await view.until(lambda: any(found.status.conditions for found in view.items()))
        await run.publish(*(Seen(n) for n in range(15)))
        assert await numbers(run) == [0, 7, 14]


async def test_a_config_under_another_name_counts_and_is_told_so() -> None:
    """Without one called default the lowest name counts; each other one hears which does instead of it."""

    class InHouse(Step):
        name = "in-house"
        config_kind: ClassVar[type[Resource] | None] = HouseSettings

    def of(name: str, step: int) -> HouseSettings:
        return HouseSettings(metadata=Metadata(name=name, namespace="ugallu-system"), spec=StepConfig(step=step))

    async with running(InHouse) as run:
        await run.cluster.create(of("zeta", 3))
        await run.cluster.create(of("alpha", 7))
        view = run.process.cache.view(HouseSettings, namespace="ugallu-system")

        def said(name: str, words: str) -> bool:
            found = view.get(name, "ugallu-system")
            conditions = found.status.conditions if found is not None else ()
            return any(
                (c.status, c.reason) == ("False", "NotDefault") and c.message.startswith(words) for c in conditions
            )

        with anyio.fail_after(10):
            await view.until(lambda: said("alpha", "used") and said("zeta", "not read: HouseSettings/alpha is"))
        await run.publish(*(Seen(n) for n in range(15)))
        assert await numbers(run) == [0, 7, 14]
        await run.cluster.create(of("default", 5))
        with anyio.fail_after(10):
            await view.until(lambda: said("alpha", "not read: HouseSettings/default is"))
        found = view.get("default", "ugallu-system")
        assert found is not None
        await view.until(
            lambda: (now := view.get("default", "ugallu-system")) is not None and bool(now.status.conditions)
        )
        await run.publish(*(Seen(n) for n in range(15, 22)))
        assert (await numbers(run))[-1] == 20


@pytest.mark.parametrize(
    ("spec", "said", "why"),
    [
        ({"stpe": 5}, "unknown field stpe", "InvalidConfig"),
        ({"step": "often"}, "step", "InvalidConfig"),
        ({"labels": {"a": 1}}, "labels", "InvalidConfig"),
        ({"step": 0}, "goes nowhere", "BuildFailed"),
    ],
)
async def test_an_invalid_config_is_said_in_its_status_and_changes_nothing(
    spec: dict[str, Any], said: str, why: str
) -> None:
    """Ready=False with the field and the reason; what ran keeps running; a mended object serves again."""
    async with running(Step) as run:
        await run.cluster.apply(settings(step=5), manager="test")
        await ready(run, "True")
        await run.cluster.apply(settings(**spec), manager="test")
        condition = await ready(run, "False")
        assert condition.reason == why
        assert said in condition.message
        assert said in reason(run, "step")
        await run.publish(*(Seen(n) for n in range(11)))
        assert await numbers(run) == [0, 5, 10]
        await run.cluster.apply(settings(step=3), manager="test")
        await ready(run, "True")
        assert reason(run, "step") == ""
        await run.publish(*(Seen(n) for n in range(11, 20)))
        assert await numbers(run) == [0, 5, 10, 12, 15, 18]


class Broken(Operator[Config]):
    """Whatever it is asked, it breaks."""

    name = "broken"
    config = Config

    def build(self, config: Config, platform: Platform) -> Parts:
        raise ZeroDivisionError("no good")


class Fragile(Operator[Config]):
    """Builds, then every part of it breaks."""

    name = "fragile"
    config = Config
    emits = (TYPE,)

    def build(self, config: Config, platform: Platform) -> Parts:
        return Parts(detectors=[Raises()], services=[Dies()], reconcilers=[Refuses()], ready=lambda: "never")


class Raises:
    observes = Seen

    def inspect(self, seen: Seen) -> Iterator[Finding]:
        raise ZeroDivisionError(seen.number)


class Dies:
    name = "dies"

    async def run(self) -> None:
        raise OSError("gone")


class Refuses:
    watches = SigmaRule

    async def reconcile(self, resource: SigmaRule) -> After | None:
        raise ZeroDivisionError

    async def gone(self, key: Key) -> None:
        raise ZeroDivisionError


async def test_what_breaks_in_one_cell_leaves_its_neighbours_alone() -> None:
    """Two operators fail in every way there is; the third works and is ready, the process says who is not."""
    async with running(Broken, Fragile, Step) as run:
        rule = SigmaRule(
            metadata=Metadata(name="r"),
            spec=SigmaRuleSpec(
                match=SigmaMatch(verb=("get",)),
                emit=SigmaEmit(security_event_type=TYPE.name, severity=TYPE.severity),
            ),
        )
        await run.cluster.create(rule)
        await run.publish(*(Seen(n) for n in range(30)))
        failed = {"operator": "fragile", "detector": "Raises"}
        seen = run.process.cache.view(SecurityEvent)
        with anyio.fail_after(10):
            await run.process.supervisor.until(
                lambda: run.metrics.value("ugallu_detector_errors_total", **failed) == 30
            )
            await seen.until(lambda: len(list(seen.items())) == 3)
        assert reason(run, "step") == ""
        reasons = run.process.supervisor.reasons()
        assert "no good" in reasons["broken"]
        assert reasons["fragile"]
        assert "step" not in reasons
        assert run.metrics.value("ugallu_operator_restarts_total", operator="fragile", part="dies") >= 1


class Rotten(Operator[Config]):
    """Gets past every guard of its parts: what it calls a detector is none."""

    name = "rotten"
    config = Config

    def build(self, config: Config, platform: Platform) -> Parts:
        return Parts(detectors=[object()])  # type: ignore[list-item]


async def test_a_cell_that_breaks_whole_is_started_again_and_harms_nobody() -> None:
    """The last wall holds: a reason, a counter, and neighbours that do not notice."""
    async with running(Rotten, Step) as run:
        await run.publish(*(Seen(n) for n in range(30)))
        assert "broke" in reason(run, "rotten")
        assert run.metrics.value("ugallu_operator_restarts_total", operator="rotten", part="cell") >= 1
        seen = run.process.cache.view(SecurityEvent)
        with anyio.fail_after(10):
            await seen.until(lambda: len(list(seen.items())) == 3)


class NeedsPods(Step):
    name = "needs-pods"
    needs_pods = True


def test_an_operator_that_works_on_pods_is_refused_where_there_are_none() -> None:
    """Asked for by name: a clear word. Among all: left out."""
    assert runnable([NeedsPods, Step], embedded=True) == [Step]
    assert runnable([NeedsPods, Step], embedded=False) == [NeedsPods, Step]
    with pytest.raises(PermanentError, match="works on Pods, and the embedded cluster runs none"):
        runnable([NeedsPods], embedded=True, named=("needs-pods",))


class Elsewhere(EmbeddedCluster):
    """An embedded cluster that passes for one that several processes share."""

    @property
    def embedded(self) -> bool:
        return False


class Leader(Step):
    name = "leader"
    placement = Placement.ONE_LEADER


async def test_one_leader_runs_its_parts_and_gives_the_lease_back() -> None:
    """While another holds the lease this process stands by, ready; given back, this one works, and metrics say who does."""
    cluster = Elsewhere.in_memory()
    other = Election(cluster, SystemClock(), name="ugallu-leader-leader", namespace="ugallu-system", identity="other")
    free = anyio.Event()
    async with anyio.create_task_group() as tg:
        held = anyio.Event()

        async def hold() -> None:
            held.set()
            await free.wait()

        tg.start_soon(other.lead, hold)
        await held.wait()
        async with running(Leader, cluster=cluster) as run:
            (cell,) = run.process.supervisor.cells
            assert cell.observed == []
            assert cell.reason == ""
            metrics = run.process.metrics
            assert metrics.value("ugallu_operator_leading", operator="leader") == 0
            assert metrics.value("ugallu_operator_ready", operator="leader") == 1
            free.set()
            with anyio.fail_after(20):
                await run.process.supervisor.until(lambda: bool(cell.observed))
            await run.publish(*(Seen(n) for n in range(30)))
            assert await numbers(run) == [0, 10, 20]
            assert metrics.value("ugallu_operator_leading", operator="leader") == 1
        assert metrics.value("ugallu_operator_leading", operator="leader") == 0
    lease = await cluster.get(Lease, "ugallu-leader-leader", "ugallu-system")
    assert lease.spec.holder_identity == ""
    await cluster.close()


async def test_detectors_keep_what_they_saw_over_a_stop(tmp_path: Path) -> None:
    """Stop, start on the same state: the stream goes on, nothing is found twice."""
    cluster = EmbeddedCluster.in_memory()
    keep = Settings(state=str(tmp_path))
    async with running(Step, cluster=cluster, settings=keep) as run:
        await run.publish(*(Seen(n) for n in range(25)))
        assert await numbers(run) == [0, 10, 20]
    async with running(Step, cluster=cluster, settings=keep) as run:
        await run.publish(*(Seen(n) for n in range(45)))
        assert await numbers(run) == [0, 10, 20, 30, 40]
    await cluster.close()


async def test_a_disk_that_refuses_findings_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal takes nothing the operator is not ready, in the disk's own words; then it is again."""
    async with running(Step) as run:
        full = [True]
        append = run.process.journal.append

        async def refusing(records: Sequence[bytes]) -> int:
            if full:
                raise TransientError("No space left on device (ENOSPC)", where="1.seg")
            return await append(records)

        monkeypatch.setattr(run.process.journal, "append", refusing)
        await run.publish(*(Seen(n) for n in range(10)))
        with anyio.fail_after(10):
            while "ENOSPC" not in reason(run, "step"):
                await settled()
        assert "journal refuses" in run.process.supervisor.reasons()["step"]
        full.clear()
        assert len(await run.events()) == 1
        assert reason(run, "step") == ""


async def test_closing_takes_its_time_and_nobody_elses() -> None:
    """Parts that bring files to the disk as they close do so beside the loop, and an end waits for them."""
    settle, closed = threading.Event(), threading.Event()

    class Writing(Step):
        def build(self, config: StepConfig, platform: Platform) -> Parts:
            def close() -> None:
                if settle.wait(10):
                    closed.set()

            return Parts(close=close)

    async def later() -> None:
        while run.process.supervisor.reasons().get("process") != "stopping":
            await settled()
        settle.set()

    async with anyio.create_task_group() as tg:
        async with running(Writing) as run:
            tg.start_soon(later)
        assert closed.is_set()
