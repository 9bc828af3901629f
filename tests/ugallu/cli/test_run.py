"""`ugallu run --no-follow` ends with its input."""

import subprocess
import sys
from pathlib import Path

QUIET = ("--health", "", "--metrics", "", "--log-format", "json")


def run(state: Path, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ugallu", "run", "--state", state, "--audit-log", log, "--from-start",
               "--no-follow", *QUIET]  # fmt: skip
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=30, check=False)


def test_no_follow_ends_with_the_input(tmp_path: Path) -> None:
    """What was there is read to its end, windows close, and the process ends with 0."""
    log = tmp_path / "audit.log"
    log.write_bytes(b"broken\n" * 3)
    done = run(tmp_path / "s", log)
    assert done.returncode == 0, done.stderr
    [stopped] = [line for line in done.stderr.splitlines() if '"stopped"' in line]
    assert '"received":3' in stopped


def test_input_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    """A log that cannot come any more is no reason to wait."""
    done = run(tmp_path / "s", tmp_path / "none")
    assert done.returncode == 2
    assert f"ugallu: {tmp_path / 'none'}: no such audit log" in done.stderr
