"""Who believes what of the backpressure ConfigMap, and what an outbox does then."""

import datetime as dt

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.catalog import Severity
from ugallu.api.meta import Metadata
from ugallu.cluster.cache import SharedCache
from ugallu.emit.gate import Level
from ugallu.emit.pressure import NAME, STALE, PressureMap, Word, obeyed, read
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.emission import EPOCH, Emission, finding, pumping

RED = Word(Level.RED, 0.95, 7, EPOCH)


def said(word: Word) -> PressureMap:
    return PressureMap(metadata=Metadata(name=NAME, namespace="ugallu-system"), data=word.data())


@pytest.mark.parametrize("level", [Level.GREEN, Level.YELLOW, Level.RED])
def test_what_is_written_is_read(level: Level) -> None:
    """The keys of the contract, in the form that other readers know."""
    word = Word(level, 0.7234, 123, EPOCH)
    data = word.data()
    assert list(data) == [
        "level", "effectiveRateMultiplier", "minSeverityAccepted", "ratio", "usedBytes", "updatedAt", "stale",
    ]  # fmt: skip
    assert data["ratio"] == "0.7234"
    assert data["updatedAt"] == "2026-01-01T00:00:00Z"
    assert read(data) == word


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("level", "Black"), ("level", ""), ("level", "unknown"), ("minSeverityAccepted", "critical"), ("ratio", "-1"),
        ("minSeverityAccepted", "none"), ("effectiveRateMultiplier", "0.3"), ("effectiveRateMultiplier", "nan"),
        ("ratio", "inf"), ("usedBytes", "-5"), ("usedBytes", "x"), ("updatedAt", "yesterday"),
        ("updatedAt", "2026-01-01T00:00:00"), ("ratio", "1e999"), ("usedBytes", "9" * 30000),
    ],
)  # fmt: skip
def test_a_value_out_of_range_makes_no_level(key: str, value: str) -> None:
    """Whoever can write the ConfigMap cannot have critical events shed, nor anything by half a word."""
    data = RED.data() | {key: value}
    assert read(data) is None
    assert read({name: text for name, text in RED.data().items() if name != key}) is None


@given(st.dictionaries(st.sampled_from([*RED.data(), "other"]), st.text(max_size=40)))
@settings(max_examples=200, deadline=None)
def test_any_content_is_read_without_an_error(data: dict[str, str]) -> None:
    """And makes a level only if it is one of ours."""
    assert obeyed(read(data)) in Level
    assert obeyed(read(RED.data() | data)) in (Level.RED, Level.YELLOW, Level.UNKNOWN)


def test_what_nobody_measured_sheds_nothing() -> None:
    """A red level whose controller says that it is stale slows the pace, and no more."""
    assert obeyed(Word(Level.RED, 0.9, 1, EPOCH, stale=True)) is Level.YELLOW
    assert obeyed(Word(Level.YELLOW, 0.9, 1, EPOCH, stale=True)) is Level.YELLOW


async def test_an_outbox_obeys_the_configmap_and_sheds_what_is_low() -> None:
    """B1: under red, what is neither high nor critical becomes no object, is counted by its component and reported."""
    emission = Emission(clock=ManualClock(EPOCH))
    cache = SharedCache(emission.store, clock=emission.clock)
    outbox = emission.outbox()
    await outbox.recover()
    outbox.obey(cache.view(PressureMap, namespace="ugallu-system", fields=f"metadata.name={NAME}"))
    await emission.store.create(said(RED))
    async with anyio.create_task_group() as tasks, pumping(outbox):
        tasks.start_soon(cache.run)
        await settled()
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="red") == 1
        await emission.emitter().submit(
            [
                finding("rule-a", 0, severity=Severity.LOW),
                finding("rule-b", 1, severity=Severity.MEDIUM),
                finding("rule-c", 2, severity=Severity.HIGH),
                finding("rule-d", 3, severity=Severity.CRITICAL),
            ]
        )
        await outbox.drain()
        events = await emission.events()
        assert [event.spec.severity.value for event in events if event.spec.type == "ExecIntoPod"] == [
            "critical",
            "high",
        ]
        (report,) = [event for event in events if event.spec.type == "SourceRateLimited"]
        assert report.spec.signals["reason"] == "backpressure"
        assert report.spec.signals["dropped"] == "2"
        assert report.spec.source.name == "ugallu-test"
        assert emission.metrics.value("ugallu_emitter_dropped_total", reason="backpressure") == 2
        assert outbox.books().gaps == []
        # A word that is not renewed is no word.
        await emission.manual.advance(STALE)
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="unknown") == 1
        await emission.store.apply(said(Word(Level.YELLOW, 0.8, 1, emission.clock.now())), manager="x")
        await settled()
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="yellow") == 1
        tasks.cancel_scope.cancel()


async def test_a_word_that_is_old_already_is_not_believed() -> None:
    """A controller that died an hour before we started says nothing to us; one that is there but ahead does."""
    emission = Emission(clock=ManualClock(EPOCH))
    cache = SharedCache(emission.store, clock=emission.clock)
    outbox = emission.outbox()
    await outbox.recover()
    outbox.obey(cache.view(PressureMap))
    await emission.store.create(said(Word(Level.RED, 0.95, 7, EPOCH - dt.timedelta(hours=1))))
    async with anyio.create_task_group() as tasks, pumping(outbox):
        tasks.start_soon(cache.run)
        await settled()
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="red") == 0
        ahead = Word(Level.RED, 0.95, 7, EPOCH + dt.timedelta(hours=1))
        await emission.store.apply(said(ahead), manager="x")
        await settled()
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="red") == 1
        tasks.cancel_scope.cancel()


async def test_without_a_configmap_everything_passes() -> None:
    """A level that an earlier process obeyed ends when nobody says it any more."""
    emission = Emission(clock=ManualClock(EPOCH))
    cache = SharedCache(emission.store, clock=emission.clock)
    outbox = emission.outbox()
    await outbox.recover()
    await outbox.press(Level.RED)
    outbox.obey(cache.view(PressureMap))
    async with anyio.create_task_group() as tasks, pumping(outbox):
        tasks.start_soon(cache.run)
        await settled()
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="red") == 1
        await emission.manual.advance(STALE)
        assert emission.metrics.value("ugallu_emitter_backpressure_level", level="unknown") == 1
        tasks.cancel_scope.cancel()
