"""Two more verifiers of Sigstore bundles beside cosign: sigstore-python and @sigstore/verify, installed once and kept.

Each runs as one process that answers many questions, a line each; starting one costs more than hundreds of answers.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.go import MissingError, alone, cache

PYTHON_VERSION = "4.5.1"
HERE = Path(__file__).parent


class Verifier:
    """A process that answers; use as a context manager."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def refuses(self, **question: object) -> str:
        """Ask, and return why the bundle is refused, empty when it is accepted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} has ended"
        answer = json.loads(line)
        return "" if answer["ok"] else answer["error"] or "refused"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)


def sigstore_python(environ: Mapping[str, str] = os.environ) -> Verifier:  # noqa: TID251 - where caches are
    """Start sigstore-python; raises `MissingError`."""
    home = cache(environ) / f"sigstore-python-{PYTHON_VERSION}"
    done = home / "done"
    with _alone(home):
        if not done.exists():
            _run([sys.executable, "-m", "venv", str(home)], home.parent, "install Python's venv module")
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", f"sigstore=={PYTHON_VERSION}"]
            _run(pip, home, "reach a package index")
            done.touch()
    return Verifier([str(home / "bin" / "python"), str(HERE / "verify_python.py")], home)


def sigstore_js(environ: Mapping[str, str] = os.environ) -> Verifier:  # noqa: TID251 - where caches are
    """Start @sigstore/verify; raises `MissingError`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("there is no Node here; `apt-get install nodejs npm`, or https://nodejs.org")
    wanted = (HERE / "js" / "package.json").read_text()
    version = json.loads(wanted)["dependencies"]["@sigstore/verify"]
    home = cache(environ) / f"sigstore-js-{version}"
    done = home / "done"
    with _alone(home):
        if not done.exists() or done.read_text() != wanted:
            home.mkdir(exist_ok=True)
            shutil.copy(HERE / "js" / "package.json", home)
            quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
            _run([npm, "install", *quiet], home, "reach a package registry")
            done.write_text(wanted)
        shutil.copy(HERE / "js" / "verify.js", home)
    return Verifier([node, "verify.js"], home)


def _alone(home: Path) -> AbstractContextManager[None]:
    home.parent.mkdir(parents=True, exist_ok=True)
    return alone(home.with_suffix(".lock"))


def _run(command: list[str], folder: Path, fix: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"`{' '.join(command)}` failed; {fix}\n{done.stderr[-500:]}")
