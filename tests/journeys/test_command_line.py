"""The command line as a user meets it: processes, files, exit statuses."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOG = ROOT / "examples" / "audit.jsonl.gz"
RULES = ROOT / "examples" / "rules"


def ugallu(
    *arguments: str | Path, cwd: Path | None = None, stdin: bytes | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", *map(str, arguments)],
        cwd=cwd or ROOT,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **env},  # noqa: TID251 - a child's environment, not settings
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def listed(state: Path) -> list[dict[str, Any]]:
    done = ugallu("events", "-o", "json", "--state", state)
    assert done.returncode == 0, done.stderr
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def digests(state: Path) -> dict[str, Any]:
    return {event["metadata"]["name"]: event["spec"] for event in listed(state)}


@pytest.fixture(scope="module")
def played(sealed: Any) -> Path:
    """The state directory after a sealed replay of the incident."""
    state: Path = sealed.state
    return state


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, ugallu("demo", cwd=folder)


def test_demo_finds_seals_verifies(demonstrated: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The demo ends with 0, tells what was found, that all of it verifies, that the books close, and the cosign line."""
    _, done = demonstrated
    assert done.returncode == 0, done.stderr
    for text in ("10,277 audit events", "ClusterAdminGranted", "books     close", "cosign verify-blob-attestation"):
        assert text in done.stdout
    [sealed] = [line for line in done.stdout.splitlines() if line.startswith("sealed")]
    count, of = sealed.split()[1], sealed.split()[3].rstrip(":")
    assert count == of != "0"
    assert done.stderr == ""


def test_demo_leaves_report_and_evidence(demonstrated: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Where it was called stand a report that loads nothing and a folder that verifies by itself."""
    folder, _ = demonstrated
    page = (folder / "ugallu-report.html").read_text("utf-8")
    assert "ClusterAdminGranted" in page
    assert "<script" not in page
    assert "src=" not in page
    done = ugallu("verify", folder / "ugallu-evidence")
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["ugallu-evidence", "ugallu-report.html"]


def test_replay_prints_findings_and_nothing_else(piped: Any) -> None:
    """With --json, stdout holds one finding a line in the promised shape, stderr one object with the books."""
    findings = piped.findings
    assert findings
    for found in findings:
        assert list(found) == ["auditID", "stage", "rule", "type", "class", "severity", "subject", "detectedAt"]
        assert found["rule"]  # an event about events is none
    books = json.loads(piped.stderr)
    assert books["received"] == books["parsed"] + books["rejected"] + books["duplicate"] == 10_277
    dropped = sum(books["dropped"].values())
    assert books["matched"] == books["emitted"] + books["folded"] + dropped
    assert len(findings) == books["emitted"] + books["folded"]
    assert (books["pending"], books["sealed"]) == (0, 0)


def test_replay_without_rules_says_which_it_takes(tmp_path: Path) -> None:
    """Without --rules the default rules are used, and named."""
    (tmp_path / "log").write_bytes(b"")
    done = ugallu("replay", "log", "--no-seal", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "using the default rules" in done.stderr
    assert "received = parsed + rejected + duplicate: closes" in done.stderr


def test_two_replays_agree(sealed: Any, piped: Any) -> None:
    """Same input, same rules: the same names, specs and findings, sealed or not, whatever the hash seed, from a file or
    a pipe, wherever on disk.
    """
    assert digests(sealed.state) == digests(piped.state)
    assert sealed.stdout == piped.stdout


def test_a_second_replay_adds_nothing(played: Path) -> None:
    """The state remembers how far it has come: the same log again brings no event."""
    before = digests(played)
    done = ugallu("replay", LOG, "--rules", RULES, "--state", played, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert digests(played) == before


def test_every_event_is_attested(played: Path) -> None:
    """After a replay no event waits for its evidence."""
    assert {event["status"]["phase"] for event in listed(played)} == {"Attested"}


def test_events_read_like_kubectl(played: Path) -> None:
    """The columns are those of the CRD; one event by name; an unknown one is status 1."""
    lines = ugallu("events", "--state", played).stdout.splitlines()
    assert lines[0].split() == ["NAME", "CLASS", "TYPE", "SEVERITY", "PHASE", "SUBJECT", "AGE"]
    name = lines[1].split()[0]
    one = json.loads(ugallu("events", name, "-o", "json", "--state", played).stdout)
    assert (one["kind"], one["metadata"]["name"]) == ("SecurityEvent", name)
    assert "kind: SecurityEvent" in ugallu("events", name, "-o", "yaml", "--state", played).stdout
    missing = ugallu("events", "se-0", "--state", played)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "ugallu: securityevents/se-0: not found\n"


def test_watch_prints_what_is_there_and_then_what_comes(tmp_path: Path) -> None:
    """`events -w` beside a replay shows each new event as it appears, and ends when interrupted."""
    state = tmp_path / "s"
    log = tmp_path / "empty.jsonl"
    log.write_bytes(b"")
    assert ugallu("replay", log, "--rules", RULES, "--state", state).returncode == 0
    command = [sys.executable, "-m", "ugallu", "events", "-w", "-o", "json", "--state", str(state)]
    # A shell's background job ignores interrupts, and so would everything that it starts.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what a buffered line reads ahead would be lost to `communicate`
        preexec_fn=listening,  # noqa: PLW1509 - one thread here
    ) as watch:
        try:
            done = ugallu("replay", LOG, "--rules", RULES, "--state", state, "--no-seal")
            assert done.returncode == 0, done.stderr
            assert watch.stdout is not None
            first = json.loads(watch.stdout.readline())
            watch.send_signal(signal.SIGINT)
            rest, told = watch.communicate(timeout=30)
        finally:
            watch.kill()
    assert watch.returncode == 130
    assert told == b""
    names = {first["metadata"]["name"], *(json.loads(line)["metadata"]["name"] for line in rest.splitlines())}
    assert names <= set(digests(state))


def test_doctor_finds_a_healthy_state_healthy(played: Path) -> None:
    """Nothing fails on a state that was just used."""
    done = ugallu("doctor", "--state", played, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert {check["verdict"] for check in told["checks"]} <= {"ok", "warn"}


def test_run_serves_until_sigterm(tmp_path: Path) -> None:
    """`run` finds and seals what stands in the log, answers `events` beside it, and ends with 0 on SIGTERM."""
    import gzip

    log = tmp_path / "audit.log"
    log.write_bytes(gzip.decompress(LOG.read_bytes()))
    state = tmp_path / "state"
    command = [sys.executable, "-m", "ugallu", "run", "--state", state, "--audit-log", log, "--from-start",
               "--rules", RULES, "--health", "", "--metrics", "", "--log-format", "json"]  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _all_attested(state):
            if process.poll() is not None:
                break
    finally:
        process.send_signal(signal.SIGTERM)  # no harm to one that has ended
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told.decode()
    [stopped] = [json.loads(line) for line in told.splitlines() if b'"stopped"' in line]
    assert stopped["received"] == 10_277
    assert stopped["pending"] == 0
    assert stopped["sealed"] == stopped["emitted"] + stopped["summaries"]


def _all_attested(state: Path) -> bool:
    done = ugallu("events", "-o", "json", "--state", state) if (state / "cluster.db").exists() else None
    items = json.loads(done.stdout)["items"] if done is not None and done.returncode == 0 and done.stdout else []
    return len(items) > 20 and all(item.get("status", {}).get("phase") == "Attested" for item in items)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("run", "--state", "S", "--kubeconfig", "/no/such"), 2, "/no/such: no such kubeconfig"),
        (("run",), 2, "no state directory given"),
        (("run", "--state", "S", "--enable", "nobody"), 2, "no operator is called nobody"),
        (("replay", "/no/such.log"), 2, "/no/such.log"),
        (("replay", "LOG", "--rules", "/no/such/rules"), 2, "/no/such/rules"),
        (("events", "--state", "/no/such/state"), 2, "no such directory"),
        (("verify", "/no/such.json"), 2, "/no/such.json: no such bundle"),
        (("verify", "x", "--identity", "i"), 2, "who vouches for it"),
    ],
)
def test_errors_say_what_where_and_fix(arguments: tuple[str, ...], status: int, says: str, tmp_path: Path) -> None:
    """Wrong use ends with its status and one line on stderr, without a traceback."""
    words = [str(LOG) if word == "LOG" else str(tmp_path / "s") if word == "S" else word for word in arguments]
    done = ugallu(*words)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
