"""Assembly: which operators a process gets, and what keeps two processes apart."""

from pathlib import Path

import anyio
import msgspec
import pytest
import structlog

from ugallu.api.audit import AuditRecord
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings, ListenSettings, RelaySettings, Settings, WebhookSettings
from ugallu.supervisor.assembly import load, open_embedded, shared_sources

LOG = structlog.wrap_logger(structlog.ReturnLogger())


def settings(state: Path, *enable: str, seal: bool = True) -> Settings:
    return Settings(
        state=str(state),
        enable=enable,
        seal=seal,
        audit=AuditSettings(follow=False),
        listen=ListenSettings(health="", metrics=""),
    )


def names(chosen: Settings) -> list[str]:
    return sorted(operator.name for operator in load(chosen, embedded=True))


def test_all_operators_run_unless_some_are_named(tmp_path: Path) -> None:
    """And without sealing the attestor is not even imported."""
    assert names(settings(tmp_path)) == ["attestor", "audit-detection"]
    assert names(settings(tmp_path, "audit-detection")) == ["audit-detection"]
    assert names(settings(tmp_path, seal=False)) == ["audit-detection"]


def test_lifecycle_is_for_what_goes_on(tmp_path: Path) -> None:
    """A replay neither collects nor measures: it tells what was in its input, whatever the time is now."""
    live = msgspec.structs.replace(settings(tmp_path), audit=AuditSettings())
    assert names(live) == ["attestor", "audit-detection", "backpressure", "ttl"]
    assert names(msgspec.structs.replace(live, seal=False)) == ["audit-detection", "backpressure"]
    assert names(settings(tmp_path, "ttl")) == ["ttl"]


def test_an_operator_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the names of those that are."""
    with pytest.raises(PermanentError, match="installed are: attestor, audit-detection"):
        names(settings(tmp_path, "honeypot"))


async def test_one_state_directory_belongs_to_one_process(tmp_path: Path) -> None:
    """A second writer is refused before it has touched anything; afterwards the directory is free again."""
    async with open_embedded(settings(tmp_path), log=LOG):
        with pytest.raises(PermanentError):
            async with open_embedded(settings(tmp_path), log=LOG):
                pass
    async with open_embedded(settings(tmp_path), log=LOG) as process:
        assert [cell.name for cell in process.supervisor.cells] == ["attestor", "audit-detection"]


async def test_without_a_state_directory_it_says_which_flag(tmp_path: Path) -> None:
    """Durability needs a place."""
    with pytest.raises(PermanentError, match="--state DIR"):
        async with open_embedded(Settings(), log=LOG):
            pass


async def test_every_live_log_has_a_source_of_its_own(tmp_path: Path) -> None:
    """Several logs are followed side by side; a replay plays several files one after the other."""
    names = tuple(str(tmp_path / name) for name in ("a.log", "b.log"))
    for follow, count in ((True, 2), (False, 1)):
        audit = AuditSettings(files=names, follow=follow)
        sources = shared_sources(Settings(audit=audit), SystemClock(), Metrics(), LOG)[AuditRecord]()
        assert len({source.name for source in sources}) == count
    assert not shared_sources(Settings(), SystemClock(), Metrics(), LOG)[AuditRecord]()


@pytest.mark.parametrize("relayed", [False, True])
@pytest.mark.parametrize("served", [False, True])
async def test_roads_of_the_same_events_are_told_apart(tmp_path: Path, *, served: bool, relayed: bool) -> None:
    """Log file, webhook and another process's bus in any combination; file and webhook show an event once."""
    webhook = WebhookSettings(listen="127.0.0.1:0", tls_cert="c", tls_key="k", token_file="t")
    audit = AuditSettings(
        files=("audit.log",),
        webhook=webhook if served else WebhookSettings(),
        bus=RelaySettings(addresses=("127.0.0.1:1",), consumer="c", plaintext=True) if relayed else RelaySettings(),
    )
    made = shared_sources(Settings(state=str(tmp_path), audit=audit), SystemClock(), Metrics(), LOG)[AuditRecord]()
    assert sum(type(source).__name__ == "Once" for source in made) == (2 if served else 0)
    assert len(made) == 1 + 2 * served + relayed


async def test_two_live_logs_are_followed(tmp_path: Path) -> None:
    """What is written to either is read."""
    logs = [tmp_path / name for name in ("a.log", "b.log")]
    for number, log in enumerate(logs):
        log.write_text(f'{{"kind":"Event","verb":"get","auditID":"{number}"}}\n' * (number + 1))
    chosen = Settings(
        state=str(tmp_path / "state"),
        enable=("audit-detection",),
        audit=AuditSettings(files=tuple(map(str, logs)), from_start=True),
        listen=ListenSettings(health="", metrics=""),
    )
    async with open_embedded(chosen, log=LOG) as process:
        stop = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(process.supervisor.run, stop)
            with anyio.fail_after(20):
                await process.supervisor.until(lambda: process.supervisor.progress().lines == 3)
            stop.set()
