"""A clock that jumps: nothing ends before its time, whatever the wall says and however often the process starts."""

import datetime as dt
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cluster.port import UnavailableError
from ugallu.metrics import Metrics
from ugallu.runtime.ttl import timekeeper
from ugallu.runtime.ttl.expiry import Now
from ugallu.runtime.ttl.timekeeper import Timekeeper
from ugallu.runtime.ttl.trust import Anchor, Trust
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.lifecycle import lifecycle

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = 86400.0


def at(days: float) -> dt.datetime:
    return START + dt.timedelta(days=days)


def test_a_jump_ahead_is_not_followed() -> None:
    """Time goes on with the monotonic clock, and the wall is only what might be."""
    trust = Trust("boot", at(0), 0.0)
    assert trust.now(at(30), 60.0) == Now(START + dt.timedelta(seconds=60), at(30), START + dt.timedelta(seconds=60))
    assert trust.now(at(1), DAY) == Now(at(1), at(1), at(1))


def test_a_jump_back_is_followed_until_it_is_mended() -> None:
    """What is certain is the earlier of the two."""
    trust = Trust("boot", at(10), 0.0)
    assert trust.now(at(9), 60.0).low == at(9)
    assert trust.now(at(11), DAY).low == at(11)


def test_another_process_of_this_boot_knows_the_line() -> None:
    """A jump while nobody looked is seen by the one who looks next."""
    first = Trust("boot", at(0), 0.0)
    anchor = first.anchor(DAY)
    again = Trust("boot", at(31), 2 * DAY, anchor)
    assert again.now(at(31), 2 * DAY).low == at(2)


@pytest.mark.parametrize("anchor", [Anchor("other", 0.0, 0.0), Anchor("boot", 5 * DAY, 0.0)])
def test_another_boot_knows_nothing(anchor: Anchor) -> None:
    """Its monotonic clock was another one; the wall has to be believed."""
    assert Trust("boot", at(31), 2 * DAY, anchor).now(at(31), 2 * DAY).low == at(31)


def test_the_servers_clock_moves_the_line() -> None:
    """A clock that was mended while we ran is believed once the API server says the same."""
    trust = Trust("boot", at(0), 0.0)
    trust.witness(at(30), 60.0)
    assert trust.now(at(30), 60.0) == Now(at(30), at(30), at(30))
    # And one that is ahead of the server's is not, however long it has been so.
    assert trust.now(at(60), 120.0).low == at(30) + dt.timedelta(seconds=60)


steps = st.lists(
    st.tuples(st.floats(0, 5 * DAY), st.floats(-60 * DAY, 60 * DAY), st.booleans(), st.booleans()), max_size=30
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_certain_time_never_passes_true_time(history: list[tuple[float, float, bool, bool]]) -> None:
    """Whatever jumps, restarts and mending: with a clock that was right at first, `low` is never later than the truth."""
    true = wrong = 0.0
    trust = Trust("boot", at(0), 0.0)
    for elapsed, jump, restart, mended in history:
        true += elapsed
        wrong = 0.0 if mended else wrong + jump
        wall = START + dt.timedelta(seconds=true + wrong)
        if restart:
            trust = Trust("boot", wall, true, trust.anchor(true - elapsed))
        now = trust.now(wall, true)
        assert now.low <= START + dt.timedelta(seconds=true, milliseconds=1)
        assert now.high >= START + dt.timedelta(seconds=true, milliseconds=-1)


class Jumpy(ManualClock):
    """A wall clock that can be set."""

    def set(self, moment: dt.datetime) -> None:
        self._now = moment


async def test_a_jump_deletes_nothing_and_is_told(tmp_path: Path) -> None:
    """A month ahead: the event stays with the reason on it, readiness and an event say so; mended, all goes its way."""
    clock = Jumpy()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as desk:
        event = await desk.event("se-1")
        await desk.seal(event)
        await clock.advance(3600)
        clock.set(clock.now() + dt.timedelta(days=30))
        await desk.service("clock").turn()
        assert not await desk.through(event)
        assert (await desk.notes(event))["ugallu.io/ttl-reason"].startswith("ClockDoubt")
        assert "ahead" in desk.parts.ready()
        assert len(desk.heard.of("ClockSkewDetected")) == 1
        assert desk.metrics.value("ugallu_ttl_clock_doubt_seconds") == pytest.approx(30 * DAY)
    async with lifecycle(tmp_path, cluster, clock, store=desk.store) as again:
        # A new process is not taken in either.
        assert not await again.through(event)
        clock.set(clock.now() - dt.timedelta(days=30))
        assert not await again.through(event)
        assert "ugallu.io/ttl-reason" not in await again.notes(event)
        await clock.advance(6 * 3600)
        assert await again.through(event)
        assert again.parts.ready() == ""


class Api:
    """A `Server` with a clock."""

    def __init__(self) -> None:
        self.time: dt.datetime | None = START

    async def server_time(self) -> dt.datetime | None:
        if self.time is None:
            raise UnavailableError("away")
        return self.time

    async def fetch(self, path: str) -> bytes:
        raise NotImplementedError(path)


async def test_the_server_is_asked_and_may_be_away(tmp_path: Path) -> None:
    """Its word is taken each minute; without it the line goes on."""
    clock, api = Jumpy(), Api()
    trust = timekeeper.begin(tmp_path, clock, "boot")
    told: list[float] = []

    async def tell(ahead: float) -> None:
        told.append(ahead)

    keeper = Timekeeper(trust, tmp_path, api, clock=clock, metrics=Metrics(), log=structlog.get_logger(), tell=tell)
    clock.set(at(5))
    await keeper.turn()
    assert told == [pytest.approx(5 * DAY)]
    assert "432000 s ahead" in keeper.doubt
    api.time = at(5)
    await keeper.turn()
    assert keeper.doubt == ""
    api.time = None
    await clock.advance(60)
    await keeper.turn()
    assert timekeeper.begin(tmp_path, clock, "boot").now(clock.now(), clock.monotonic()).low == clock.now()
    (tmp_path / timekeeper.FILE).write_text("{torn")
    assert timekeeper.begin(tmp_path, clock, "boot").now(at(9), clock.monotonic()).low == clock.now()
