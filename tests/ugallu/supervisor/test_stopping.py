"""SIGTERM to a real process under load: nothing is lost, the end comes within its grace, a second one ends at once."""

import gzip
import http.client
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from ugallu.api.event import SecurityEvent
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all

ROOT = Path(__file__).parents[3]
LINES = 2000
FIRST = 3200


@pytest.fixture(scope="module")
def incident() -> list[bytes]:
    """The lines of the recorded incident in which the attack is."""
    with gzip.open(ROOT / "examples" / "audit.jsonl.gz") as stream:
        return list(itertools.islice(stream, FIRST, FIRST + LINES))


class Running:
    """`ugallu run` over an audit log, and what it says on stderr."""

    def __init__(self, work: Path, *options: str) -> None:
        log = work / "audit.log"
        self.stderr = work / f"stderr-{time.monotonic_ns()}"
        with self.stderr.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ugallu", "run"),
                    *("--audit-log", str(log), "--from-start", "--state", str(work / "state")),
                    *("--rules", str(ROOT / "examples" / "rules"), "--no-seal", "--log-format", "json"),
                    *("--health", "127.0.0.1:0", "--metrics", "127.0.0.1:00", *options),
                ],
                cwd=ROOT,
                stderr=out,
            )

    def said(self) -> Iterator[dict[str, Any]]:
        """Yield the log lines so far."""
        for line in self.stderr.read_bytes().splitlines():
            if line.startswith(b"{"):
                yield json.loads(line)

    def wait_for(self, event: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until it logs this."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.said():
                if line["event"] == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)  # noqa: TID251 - another process's time
        pytest.fail(f"never said {event!r}: {self.stderr.read_text()}")

    def ask(self, path: str, name: str) -> tuple[int, str]:
        """GET from its probes or metrics."""
        address = self.wait_for("listening")[name]
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def parsed(self) -> int:
        """How many lines this process has parsed."""
        _, text = self.ask("/metrics", "metrics")
        found = [line for line in text.splitlines() if line.startswith("ugallu_audit_file_lines_total ")]
        return int(float(found[0].split()[1])) if found else 0

    def wait_parsed(self, count: int) -> None:
        until = time.monotonic() + 30
        while self.parsed() < count:
            assert time.monotonic() < until, self.stderr.read_text()
            time.sleep(0.05)  # noqa: TID251 - another process's time

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running(work: Path, *options: str) -> Iterator[Running]:
    run = Running(work, *options)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.process.wait()


def events(work: Path) -> dict[str, str]:
    """Name and type of every event in the state directory."""

    async def read() -> dict[str, str]:
        cluster = EmbeddedCluster.open(work / "state", read_only=True)
        try:
            found, _ = await list_all(cluster, SecurityEvent)
        finally:
            await cluster.close()
        return {event.metadata.name: event.spec.type for event in found}

    return anyio.run(read)


def test_sigterm_under_load_loses_nothing(tmp_path: Path, incident: list[bytes]) -> None:
    """Stopped three times while the log grows, then caught up: the same events as a run that was never stopped."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for work in (whole, cut):
        work.mkdir()
    (whole / "audit.log").write_bytes(b"".join(incident))
    with running(whole) as run:
        run.wait_parsed(LINES)
        assert run.stop() == 0
        assert run.wait_for("stopped")["received"] == LINES
    expected = events(whole)
    assert len(expected) > 10

    log = cut / "audit.log"
    log.touch()
    written = 0
    for share in (200, 700, 1300):
        with running(cut) as run, log.open("ab", buffering=0) as out:
            run.wait_for("running")
            while written < share:
                # Half a line at the end, as a writer that is cut off by nobody but the clock leaves it.
                out.write(b"".join(incident[written : written + 50]))
                written += 50
            out.write(incident[written][:100])
            begin = time.monotonic()
            assert run.stop() == 0
            assert time.monotonic() - begin < 20
            assert run.wait_for("stopped")["cut"] == []
            out.write(incident[written][100:])
            written += 1
    with running(cut) as run, log.open("ab", buffering=0) as out:
        out.write(b"".join(incident[written:]))
        until = time.monotonic() + 30
        while events(cut) != expected and time.monotonic() < until:
            time.sleep(0.2)  # noqa: TID251 - another process's time
        assert run.stop() == 0
        books = run.wait_for("stopped")
    assert events(cut) == expected
    assert books["received"] == books["parsed"] == LINES
    assert books["pending"] == 0


def test_it_says_that_it_is_ready_and_that_it_is_not_any_more(tmp_path: Path, incident: list[bytes]) -> None:
    """200 while it works; without an audit log 503 and the reason, which is no reason to end."""
    (tmp_path / "audit.log").write_bytes(b"".join(incident[:10]))
    with running(tmp_path) as run:
        run.wait_for("running")
        assert run.ask("/readyz", "health")[0] == 200
        assert run.ask("/healthz", "health")[0] == 200
        assert run.stop() == 0


def test_a_second_sigterm_ends_at_once(tmp_path: Path, incident: list[bytes]) -> None:
    """The first waits for what is in hand, here for ever; the second does not, and the status says so."""
    (tmp_path / "audit.log").write_bytes(b"".join(incident[:10]))
    with running(tmp_path, "--grace-seconds", "600", "--creates-per-second", "0.001") as run:
        run.wait_for("running")
        with (tmp_path / "audit.log").open("ab") as out:
            out.write(b"".join(incident))
        run.wait_parsed(LINES // 2)
        run.process.send_signal(signal.SIGTERM)
        run.wait_for("stopping")
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(5) == 128 + signal.SIGTERM


def test_what_the_grace_cuts_off_is_named(tmp_path: Path, incident: list[bytes]) -> None:
    """An outbox that cannot empty in time is cut off, said by name, and goes on in the next process."""
    (tmp_path / "audit.log").write_bytes(b"".join(incident))
    with running(tmp_path, "--grace-seconds", "1", "--creates-per-second", "4") as run:
        run.wait_parsed(LINES)
        begin = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - begin < 10
        assert "outbox" in run.wait_for("stopped")["cut"]
    some = events(tmp_path)
    with running(tmp_path) as run:
        until = time.monotonic() + 20
        while len(events(tmp_path)) <= len(some) and time.monotonic() < until:
            time.sleep(0.2)  # noqa: TID251 - another process's time
        assert run.stop() == 0
    assert set(some) < set(events(tmp_path))
