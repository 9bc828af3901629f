"""Runs of the product that many journeys look at: each is made once, as a process, as a user would."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LOG = ROOT / "examples" / "audit.jsonl.gz"
RULES = ROOT / "examples" / "rules"


class Run(NamedTuple):
    """A run that is over: its state directory and what it said."""

    state: Path
    stdout: str
    stderr: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The lines of standard output."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def replay(state: Path, *arguments: str | Path, stdin: bytes | None = None, **env: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "replay", *map(str, arguments), "--rules", RULES, "--state", state, "--json"],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **env},  # noqa: TID251 - a child's environment, not settings
    )
    assert done.returncode == 0, done.stderr
    return Run(state, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The incident from its file, sealed."""
    state = tmp_path_factory.mktemp("sealed")
    state.chmod(0o700)
    return replay(state, LOG)


@pytest.fixture(scope="session")
def piped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same through a pipe, not sealed, in a process that hashes otherwise and lives elsewhere."""
    content = gzip.decompress(LOG.read_bytes())
    return replay(tmp_path_factory.mktemp("piped"), "-", "--no-seal", stdin=content, PYTHONHASHSEED="4711")
