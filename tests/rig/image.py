"""The image as users build it: the tree's Dockerfile, by buildah, over a Debian made by debootstrap.

No registry is asked: the base is `debian:bookworm-slim` in all but name. What was made is kept outside of the tree: the base,
buildah's layers (a change of the code costs seconds), and the last archives, by a hash of all that went in. How this machine
reaches its mirrors goes into the build as secrets and stays out of image and tree.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rig import packages
from tests.rig.go import MissingError, alone, cache

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "test.local/ugallu:built"
NEEDED: Final = {"buildah": "buildah", "debootstrap": "debootstrap"}
SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
BASE: Final = f"localhost/debian:{SUITE}-1"
"""Counted up when what `_debootstrap` does changes."""
TIME: Final = "1577836800"
"""Of every file, so that the same input gives the same archive."""
KEPT: Final = 3
LAYERS: Final = 120
"""Images in buildah's store, intermediate ones included, past which it starts anew: some 5 GB."""
CA: Final = "/run/secrets/ca.pem"

Environ = Mapping[str, str]


def archive(environ: Environ = os.environ) -> Path:  # noqa: TID251 - where caches and mirrors are
    """Return the OCI archive of the image of this tree as it is now, built if need be; raises `MissingError`.

    Cold it takes two minutes, after a change of the code half a minute.
    """
    home = cache(environ) / "image"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ug-image-") as work:
        # A copy: what is hashed is what is built, whoever edits meanwhile.
        context = Path(work) / "context"
        _copy(context)
        made = home / f"ugallu-{_digest(context)}.tar"
        with alone(home / "lock"):
            if not made.exists():
                packages.provide(NEEDED, "the image")
                _build(context, made, _Store(home), environ)
            made.touch()
            for old in sorted(home.glob("ugallu-*.tar"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                old.unlink()
    return made


@dataclass(frozen=True, slots=True)
class Rootfs:
    """An image unpacked: its files, and what it says about how to run them."""

    path: Path
    config: Mapping[str, Any]

    def run(self, *arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the entrypoint as a Pod of ours does, or worse.

        The image's user, a root that cannot be written, no capability, none to be had, no network, empty /tmp and state, and
        not even a shell.
        """
        user, _, group = self.config["User"].partition(":")
        environ = dict(entry.split("=", 1) for entry in self.config["Env"])
        apart = ["--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--propagation=private", "--kill-child"]
        enter = ["/usr/bin/setpriv", "--no-new-privs", "/usr/sbin/chroot", f"--userspec={user}:{group}", str(self.path)]
        inside = [*self.config["Entrypoint"], *arguments]
        return subprocess.run(
            ["/usr/bin/unshare", *apart, "/bin/bash", "-ec", CONTAIN, str(self.path), user, *enter, *inside],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )


CONTAIN: Final = """
root=$0 user=$1; shift
/bin/mount --bind "$root" "$root"
/bin/mount -o remount,bind,ro "$root"
/bin/mount -t proc proc "$root/proc"
/bin/mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
/bin/mount -t tmpfs -o uid="$user",mode=0700 tmpfs "$root/var/lib/ugallu"
for shell in bash dash; do /bin/mount --bind /dev/null "$root/usr/bin/$shell"; done
/bin/mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
/bin/mkdir -m 1777 "$root/dev/shm"
for device in null zero random urandom; do
  : > "$root/dev/$device"
  /bin/mount --bind "/dev/$device" "$root/dev/$device"
done
exec "$@"
"""


def unpack(made: Path, folder: Path) -> Rootfs:
    """Unpack an archive of one image into a folder, with owners intact, which takes root."""
    folder.chmod(0o755)
    with tarfile.open(made) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None
            return file.read()

        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.loads(index.read())["manifests"]
        manifest = json.loads(blob(entry["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        for layer in manifest["layers"]:
            unzip = ["tar", "--extract", "--gzip", "--numeric-owner", "--same-permissions", f"--directory={folder}"]
            subprocess.run(unzip, input=blob(layer["digest"]), check=True)
    return Rootfs(folder, {**config["config"], "architecture": config["architecture"]})


class _Store:
    """buildah with a store of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.policy = home / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run buildah; raises `MissingError` with the last lines it says."""
        places = [f"--root={self.home / 'store'}", f"--runroot={self.home / 'run'}", "--storage-driver=overlay"]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), "TMPDIR": str(self.home)}
        return _run(["buildah", *places, *arguments], environ, cwd)

    def has(self, name: str) -> bool:
        return bool(self.run("images", "--quiet", "--filter", f"reference={name}").strip())


def _build(context: Path, made: Path, store: _Store, environ: Environ) -> None:
    # What a build that was killed has left.
    store.run("rm", "--all")
    if len(store.run("images", "--all", "--quiet").split()) > LAYERS:
        store.run("rmi", "--all", "--force")
    if not store.has(BASE):
        _commit_base(store, environ)
    with tempfile.TemporaryDirectory(dir=store.home, prefix=".build-") as folder:
        work = Path(folder)
        secrets = [f"--secret=id={path.name},src={path}" for path in _secrets(work)]
        policy = f"--signature-policy={store.policy}"
        tag = f"localhost/ugallu:{made.stem}"
        store.run(
            "bud",
            "--isolation=chroot",
            "--network=host",
            "--pull-never",
            "--layers",
            f"--timestamp={TIME}",
            f"--build-arg=BASE={BASE}",
            f"--tag={tag}",
            policy,
            *secrets,
            str(context),
        )
        store.run("push", policy, "--quiet", tag, f"oci:{work / 'oci'}:{NAME.rpartition(':')[2]}")
        store.run("rmi", tag)
        new = work / "archive.tar"
        _archive(work / "oci", new)
        new.replace(made)


def _archive(layout: Path, path: Path) -> None:
    """Write an OCI layout as one file, under the name that a node knows it by."""
    index = layout / "index.json"
    document = json.loads(index.read_text())
    for entry in document["manifests"]:
        entry.setdefault("annotations", {})["io.containerd.image.name"] = NAME
    index.write_text(json.dumps(document, sort_keys=True))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(layout.rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(layout).as_posix(), filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(TIME)
    return entry


def _commit_base(store: _Store, environ: Environ) -> None:
    base = store.home / f"{BASE.rpartition('/')[2].replace(':', '-')}.tar"
    if not base.exists():
        _debootstrap(base, environ)
    container = store.run("from", "scratch").strip()
    store.run("add", "--quiet", container, str(base), "/")
    store.run("commit", "--quiet", f"--signature-policy={store.policy}", "--rm", container, BASE)


def _debootstrap(base: Path, environ: Environ) -> None:
    """Make what `debian:bookworm-slim` is: the required packages, and the archives that updates come from."""
    mirror = environ.get("UGALLU_RIG_DEBIAN", MIRROR)
    with tempfile.TemporaryDirectory(dir=base.parent, prefix=".debian-") as folder:
        top = Path(folder) / "rootfs"
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        _run(["debootstrap", "--variant=minbase", SUITE, str(top), mirror], clean)
        lines = (
            f"deb {mirror} {SUITE} main",
            f"deb {mirror} {SUITE}-updates main",
            f"deb {mirror}-security {SUITE}-security main",
        )
        (top / "etc" / "apt" / "sources.list").write_text("\n".join(lines) + "\n")
        # debootstrap copies these from the machine it runs on.
        for name in ("hostname", "resolv.conf"):
            (top / "etc" / name).write_text("")
        new = Path(folder) / "base.tar"
        _run(["tar", "--create", f"--file={new}", "--numeric-owner", f"--directory={top}", "."], clean)
        new.replace(base)


def _secrets(folder: Path) -> Iterator[Path]:
    """Write what this machine's own apt and pip are told, and yield the files."""
    apt = folder / "apt.conf"
    apt.touch(mode=0o600)
    told = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False)
    apt.write_text("".join(f"{line}\n" for line in told.stdout.splitlines() if line.startswith("Acquire::")))
    yield apt
    settings = _pip_settings()
    bundle = settings.pop("cert", "")
    lines = [f"{key} = {value}" for key, value in settings.items()]
    if bundle:
        (folder / "ca.pem").write_bytes(Path(bundle).read_bytes())
        yield folder / "ca.pem"
        lines.append(f"cert = {CA}")
    pip = folder / "pip.conf"
    pip.touch(mode=0o600)
    pip.write_text("\n".join(["[global]", *lines]) + "\n")
    yield pip


def _pip_settings() -> dict[str, str]:
    """Return how pip reaches its index on this machine, from its files and its variables alike."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in {"cert", "default-timeout", "extra-index-url", "index-url", "proxy", "trusted-host"}:
            found[key] = str(ast.literal_eval(value))
    return found


def _copy(context: Path) -> None:
    """Copy what .dockerignore lets in."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    names = [line[1:] for line in rules if line.startswith("!")]
    context.mkdir()
    for name in ("Dockerfile", ".dockerignore", *names):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)


def _digest(context: Path) -> str:
    total = hashlib.sha256(f"{BASE} {TIME} {NAME}".encode())
    for path in sorted(context.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(context)} {path.stat().st_size}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _run(command: Sequence[str], environ: Environ, cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=dict(environ), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise MissingError("\n".join([f"`{command[0]}` failed for the image", *last]))
    return done.stdout
