"""What the tests against real components ask for, built and started by the rig when the first test asks.

Each size of cluster is started once and shared: a test takes a fresh namespace (`api.namespace()`), and a prefix of its own for what
lives outside of namespaces. Who needs other options, or breaks things for good, starts a cluster of its own.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import go, image
from tests.rig.cluster import ApiServer, ControlPlane
from tests.rig.evidence.stack import Sigstore
from tests.rig.node import Node
from tests.rig.s3 import KINDS, S3Server

STARTS = pytest.StashKey[list[str]]()
Cosign = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cosign() -> Cosign:
    """Return a function that runs stock cosign in a folder, without any network where this machine can take it away."""
    binary = go.provide(go.COSIGN)
    offline = ["unshare", "-n"] if os.geteuid() == 0 and shutil.which("unshare") else []
    if offline and subprocess.run([*offline, "true"], capture_output=True, check=False).returncode:
        offline = []

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TUF_ROOT": str(folder / "no-tuf")}
        return subprocess.run(
            [*offline, str(binary), *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
        )

    return run


def note(config: pytest.Config, cluster: ApiServer) -> None:
    """Remember how long a start took, for the last lines of the run."""
    config.stash.setdefault(STARTS, []).append(f"{cluster.size} {cluster.seconds:.1f} s")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker noted to the process that writes the last lines."""
    output: dict[str, list[str]] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["starts"] = session.config.stash.get(STARTS, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a worker noted; one that died noted nothing."""
    starts = getattr(node, "workeroutput", {}).get("starts", [])
    node.config.stash.setdefault(STARTS, []).extend(starts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how long the clusters took to start: a slow machine is seen, not judged."""
    if starts := config.stash.get(STARTS, []):
        terminalreporter.write_line(f"clusters ready after: {', '.join(starts)}")


@pytest.fixture(scope="session")
def archive() -> Path:
    """Return the OCI archive of this tree's image."""
    return image.archive()


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Return a running API: etcd and kube-apiserver."""
    with ApiServer() as cluster:
        note(request.config, cluster)
        yield cluster


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """Return a running control plane: the API with its controllers and the scheduler."""
    with ControlPlane() as cluster:
        note(request.config, cluster)
        yield cluster


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """Return a running cluster with a real node, on which Pods run."""
    with Node() as cluster:
        note(request.config, cluster)
        yield cluster


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Return a running S3 service that enforces locks: versitygw, or what `UGALLU_S3` names (`minio`: minutes to build)."""
    with S3Server(KINDS[os.environ.get("UGALLU_S3", "versitygw")]) as server:  # noqa: TID251 - a switch of the tests
        yield server


@pytest.fixture(scope="session")
def sigstore() -> Iterator[Sigstore]:
    """Return a private Sigstore: issuer, certificate authority and its log, Rekor v1 and v2, timestamp authority."""
    with Sigstore() as services:
        yield services
