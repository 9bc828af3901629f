"""The product under broken disks and kills: a few points here, three hundred by hand (see history.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "history.py"


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["replay", "run"])
def test_no_fault_leaves_a_wrong_history(mode: str) -> None:
    """Whatever breaks and wherever: after a restart every event is there once, sealed once, and the books close."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--points", "36", "--seed", "11", "--only", mode],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
