"""`Ingest`: a process that takes in for others."""

from pathlib import Path

import pytest

from ugallu.errors import PermanentError
from ugallu.settings import AuditSettings, NatsSettings, Settings
from ugallu.supervisor.assembly import load
from ugallu.testing.harness import running
from ugallu.testing.relay import until
from ugallu_audit_detection.ingest import Ingest


async def test_it_needs_somewhere_to_write_to() -> None:
    """And says so in its readiness."""
    async with running(Ingest) as run:
        assert "--bus" in run.process.supervisor.reasons()["ingest"]


async def test_nats_that_does_not_answer_is_a_reason(tmp_path: Path) -> None:
    """Nothing is taken in that cannot be kept."""
    log = tmp_path / "audit.log"
    log.write_text("")
    settings = Settings(
        audit=AuditSettings(files=(str(log),)), bus=NatsSettings(url="nats://127.0.0.1:1", plaintext=True)
    )
    async with running(Ingest, settings=settings) as run:
        await until(lambda: "cannot connect" in run.process.supervisor.reasons().get("ingest", ""))


def test_nobody_gets_it_without_asking(tmp_path: Path) -> None:
    """All operators are those that can do something here."""
    state = str(tmp_path)
    assert Ingest not in load(Settings(state=state), embedded=True)
    assert Ingest in load(Settings(state=state, bus=NatsSettings(url="tls://nats:4222")), embedded=True)
    with pytest.raises(PermanentError):
        load(Settings(state=state, enable=("no-such",)), embedded=True)
