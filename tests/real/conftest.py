"""Programs for the tests against real components, built by the rig when the first test asks for one."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cosign = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cosign() -> Cosign:
    """Return a function that runs stock cosign in a folder, without any network where this machine can take it away."""
    path = Path(__file__).parents[1] / "rig" / "go.py"
    spec = importlib.util.spec_from_file_location("ugallu_rig_go", path)
    assert spec is not None
    assert spec.loader is not None
    rig = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rig)
    binary = rig.provide(rig.COSIGN)
    offline = ["unshare", "-n"] if os.geteuid() == 0 and shutil.which("unshare") else []
    if offline and subprocess.run([*offline, "true"], capture_output=True, check=False).returncode:
        offline = []

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TUF_ROOT": str(folder / "no-tuf")}
        return subprocess.run(
            [*offline, str(binary), *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
        )

    return run
