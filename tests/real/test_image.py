"""The image that users build: what is in it, what is not, and that it runs as a Pod of ours does."""

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import image
from tests.rig.ground import wait
from tests.rig.node import Node
from ugallu import __version__

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
UNCHECKED_HASH = 0b01
"""PEP 552: the bytecode is taken as it is, and nobody asks the source."""


@pytest.fixture(scope="module")
def rootfs(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[image.Rootfs]:
    folder = tmp_path_factory.mktemp("rootfs")
    yield image.unpack(archive, folder)
    shutil.rmtree(folder)


def files(rootfs: image.Rootfs) -> Iterator[Path]:
    for folder, _, names in os.walk(rootfs.path):
        yield from (Path(folder, name) for name in names)


def inside(rootfs: image.Rootfs, path: Path) -> str:
    return f"/{path.relative_to(rootfs.path)}"


def test_the_image_says_how_it_runs(rootfs: image.Rootfs) -> None:
    """A user without rights by number, one program, its version and where it comes from."""
    assert rootfs.config["User"] == "65532:65532"
    assert rootfs.config["Entrypoint"] == ["ugallu"]
    assert not rootfs.config.get("Cmd")
    assert not rootfs.config.get("ExposedPorts")
    labels = rootfs.config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"title", "description", "source", "documentation", "revision"} <= {
        name.rpartition(".")[2] for name in labels
    }


def test_it_runs_with_a_root_that_cannot_be_written(rootfs: image.Rootfs) -> None:
    """Version, operators and the whole demo, with neither rights nor network nor a shell, writing to /tmp and state only."""
    done = rootfs.run("version")
    assert (done.returncode, done.stdout) == (0, f"ugallu {__version__}\n"), done.stderr
    listed = rootfs.run("operators", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {entry["name"] for entry in json.loads(listed.stdout)} >= {"attestor", "audit-detection"}
    played = rootfs.run("demo", "--state", "/var/lib/ugallu/state", "--report", "/tmp/report.html")
    assert played.returncode == 0, played.stderr
    assert "books     close" in played.stdout + played.stderr
    refused = rootfs.run("demo", "--state", "/opt/ugallu/state", "--report", "/tmp/report.html")
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stderr


def test_it_starts_without_compiling(rootfs: image.Rootfs) -> None:
    """Every module has its bytecode, valid whatever times its files got on their way; and so it starts in a blink."""
    modules = [path for path in files(rootfs) if path.suffix == ".py" and not path.is_symlink()]
    modules = [path for path in modules if inside(rootfs, path).startswith(("/opt/ugallu/", "/usr/lib/python3"))]
    assert len(modules) > 1000
    for module in modules:
        (compiled,) = (module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc")
        with compiled.open("rb") as file:
            head = file.read(8)
        assert int.from_bytes(head[4:8], "little") == UNCHECKED_HASH, inside(rootfs, compiled)
    fastest = min(timed(rootfs) for _ in range(3))
    assert fastest < 2.0


def timed(rootfs: image.Rootfs) -> float:
    start = time.monotonic()
    rootfs.run("version")
    return time.monotonic() - start


def test_nothing_in_it_raises_rights_or_builds(rootfs: image.Rootfs) -> None:
    """No setuid file and no capability on one, nothing that others may write, no compiler, no pip, no cache."""
    special = [path for path in files(rootfs) if not path.is_symlink()]
    assert [inside(rootfs, path) for path in special if path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [inside(rootfs, path) for path in special if "security.capability" in os.listxattr(path)] == []
    writable = {
        inside(rootfs, path)
        for path in (Path(folder) for folder, _, _ in os.walk(rootfs.path))
        if path.stat().st_mode & stat.S_IWOTH
    }
    assert writable <= {"/tmp", "/var/tmp", "/run/lock", "/dev/shm"}
    programs = {path.name for path in files(rootfs) if "bin" in inside(rootfs, path).split("/")}
    assert programs & {"gcc", "cc", "g++", "as", "ld", "strip", "make", "pip", "pip3", "git", "curl", "wget"} == set()
    packages = {path.parent.name for path in rootfs.path.rglob("*.dist-info/METADATA")}
    assert not {name for name in packages if name.startswith(("pip-", "setuptools-", "wheel-", "hatchling-"))}
    for empty in ("var/cache", "var/lib/apt", "var/log", "tmp", "root", "run"):
        assert [inside(rootfs, path) for path in (rootfs.path / empty).rglob("*") if not path.is_dir()] == []


def test_nothing_in_it_tells_who_built_it(rootfs: image.Rootfs) -> None:
    """No setting of the building machine's pip, apt, resolver or trust is in a layer."""
    for name in ("hostname", "hosts", "resolv.conf"):
        path = rootfs.path / "etc" / name
        assert not path.exists() or path.read_text() == ""
    assert not (rootfs.path / "etc" / "machine-id").exists()
    settings = [path for path in files(rootfs) if path.name in {"pip.conf", "ca.pem", ".netrc", "direct_url.json"}]
    assert [inside(rootfs, path) for path in settings] == []
    assert not list((rootfs.path / "usr" / "local" / "share" / "ca-certificates").iterdir())
    times = {int(path.lstat().st_mtime) for path in files(rootfs)}
    assert times == {int(image.TIME)}


def test_its_size_is_kept(archive: Path, rootfs: image.Rootfs) -> None:
    """Less than 100 MB travel, less than 300 MB lie on a node (docs/decisions says what they are)."""
    assert archive.stat().st_size < 100_000_000
    assert sum(path.lstat().st_size for path in files(rootfs)) < 300_000_000


def test_every_dependency_has_a_wheel_for_arm64(tmp_path: Path) -> None:
    """pip finds for each pinned version a wheel by a pinned hash that Debian's Python takes on aarch64."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    # bookworm has glibc 2.36; pip does not conclude that older ones will do.
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)]
    target = ["--only-binary=:all:", f"--target={tmp_path / 'none'}", "--python-version=3.11", "--implementation=cp"]
    report = tmp_path / "report.json"
    lock = ["--require-hashes", f"--requirement={ROOT / 'requirements.lock'}", f"--report={report}"]
    done = subprocess.run([*command, *platforms, *target, *lock], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    urls = [entry["download_info"]["url"] for entry in json.loads(report.read_text())["install"]]
    assert sum("aarch64" in url for url in urls) >= 10
    assert all("aarch64" in url or "-none-any" in url for url in urls)


SYSTEM, PRIVILEGED = "ugallu-system", "ugallu-system-privileged"
PODS = ((SYSTEM, "local"), (PRIVILEGED, "audit-file"))
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


def installation(node: Node, folder: Path) -> Path:
    """The set-up for kind of docs/install.md with this image, on a cluster without volumes at an unusual port."""
    there = Path(os.path.relpath(ROOT / "manifests", folder))
    name, _, tag = image.NAME.partition(":")
    port = {"op": "add", "path": "/spec/egress/0/ports/-", "value": {"protocol": "TCP", "port": node.port}}
    mine = re.search(
        r"```yaml\n(# mine/kustomization\.yaml\n.*?)```", (ROOT / "docs" / "install.md").read_text(), re.DOTALL
    )
    assert mine is not None
    listing = yaml.safe_load(mine[1].replace("../manifests", str(there)))
    listing["components"].append(str(there / "components" / "ephemeral"))
    listing["images"] = [{"name": "ugallu", "newName": name, "newTag": tag}]
    listing["patches"] = [
        {"target": {"kind": "NetworkPolicy", "name": "ugallu-api-server"}, "patch": yaml.safe_dump([port])},
    ]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listing))
    return folder


def test_pods_of_the_image_detect_and_seal(node: Node, archive: Path, tmp_path: Path) -> None:
    """Installed as the page says for kind, no Secret brought along, each Pod gets ready and stays up.

    What is written to the log becomes an event with sealed evidence, in the cluster.
    """
    node.load(archive)
    assert image.NAME in node.images()
    log = node.state / "var" / "log" / "kubernetes" / "audit" / "audit.log"
    log.parent.mkdir(parents=True)
    log.touch(0o600)
    folder = installation(node, tmp_path)
    node.kubectl("label", "node", node.name, f"{CONTROL_PLANE}=")
    try:
        node.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
        pods = wait("Pods that are ready", lambda: ready(node), 60, every=0.2, hint=lambda: said(node))
        assert [pod["spec"]["serviceAccountName"] for pod in pods] == ["ugallu-local", "ugallu-audit-detection"]
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True

        node.kubectl("apply", "--server-side", "-f", str(ROOT / "examples" / "rules" / "cluster-admin-granted.yaml"))
        with log.open("ab") as file:
            file.write(gzip.decompress((ROOT / "examples" / "audit.jsonl.gz").read_bytes()))
        wait("a sealed event", lambda: attested(node), 60, every=0.2, hint=lambda: said(node))
        restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in ready(node)]
        assert restarts == [0, 0]
    finally:
        node.kubectl("label", "node", node.name, f"{CONTROL_PLANE}-")
        node.kubectl("delete", "-k", str(folder), "--ignore-not-found", "--wait=false")


def ready(node: Node) -> list[dict[str, Any]]:
    """The Pods, once they are all ready; before, nothing."""
    found = []
    for namespace, component in PODS:
        selector = f"--selector=app.kubernetes.io/component={component}"
        listed = json.loads(node.kubectl("get", "pods", "-n", namespace, selector, "--output=json"))["items"]
        found += [pod for pod in listed if conditions_of(pod).get("Ready") == "True"]
    return found if len(found) == len(PODS) else []


def conditions_of(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", [])}


def attested(node: Node) -> bool:
    listed = node.kubectl("get", "securityevents", "--no-headers", "--ignore-not-found")
    return any("ClusterAdminGranted" in line and "Attested" in line for line in listed.splitlines())


def said(node: Node) -> str:
    told = []
    for namespace, component in PODS:
        selector = f"--selector=app.kubernetes.io/component={component}"
        told.append(node.kubectl("get", "pods,events", "-n", namespace))
        told.append(node.kubectl("logs", "-n", namespace, selector, "--tail=20", "--ignore-errors"))
    return "\n".join(told)
