"""Any history of appends, reads, saves, restarts and crashes agrees with a list."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.clock import SystemClock
from ugallu.journal.port import Cursor, Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings

records = st.lists(st.binary(max_size=60), min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(records, min_size=1, max_size=4)),
        st.tuples(st.just("read"), st.tuples(st.integers(0, 40), st.integers(1, 7))),
        st.tuples(st.just("save"), st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 40), st.binary(max_size=9))),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("crash"), st.none()),
    ),
    max_size=20,
)


def opened(directory: Path) -> SegmentedJournal:
    log = logger(LogSettings(level="critical"))
    return SegmentedJournal(directory, Retention(), clock=SystemClock(), metrics=Metrics(), log=log, segment_bytes=200)


async def append(journal: SegmentedJournal, batch: list[bytes], lasts: dict[int, list[bytes]]) -> None:
    lasts[await journal.append(batch)] = batch


async def play(directory: Path, history: list[tuple[str, Any]]) -> None:
    journal = opened(directory)
    model: list[bytes] = []
    cursors = {"a": Cursor(), "b": Cursor()}
    for name, detail in history:
        if name == "append":
            lasts: dict[int, list[bytes]] = {}

            async with anyio.create_task_group() as group:
                for batch in detail:
                    group.start_soon(append, journal, batch, lasts)
            for _, batch in sorted(lasts.items()):
                model += batch
        elif name == "read":
            after, limit = detail
            found = journal.reader("a").read(after, limit=limit)
            assert [(record.seq, record.data) for record in found] == list(enumerate(model, 1))[after : after + limit]
        elif name == "save":
            reader, seq, state = detail
            cursors[reader] = Cursor(min(seq, len(model)), state)
            journal.reader(reader).save(cursors[reader])
        else:
            if name == "restart":
                journal.close()
            else:
                journal._release()
            journal = opened(directory)
        assert journal.last == len(model)
        assert {reader: journal.reader(reader).cursor for reader in cursors} == cursors
    assert [record.data async for record in journal.records(0)] == model
    assert not any(journal.books().values())
    journal.close()


@settings(max_examples=60, deadline=None)
@given(history=steps)
def test_agrees_with_a_list(tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]]) -> None:
    """The journal is a list that survives, and its cursors are variables that survive."""
    anyio.run(play, tmp_path_factory.mktemp("journal"), history)
