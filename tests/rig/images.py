"""Container images without a registry: OCI archives written from what this machine has.

An archive is a tar of blobs named by digest with an index (https://github.com/opencontainers/image-spec/blob/main/image-layout.md);
containerd takes the image's name from an annotation there. Layers are not compressed: they travel one metre. Names carry a domain
(`test.local/x:1`), or containerd would look for them under another; a tag other than `latest` is never pulled when it is there.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig import go

PAUSE = "test.local/pause:1"
BUSYBOX = "test.local/busybox:1"
COREDNS = "test.local/coredns:1"
PYTHON = "test.local/python:1"
UGALLU = "test.local/ugallu:1"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

NOBODY = 65532
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n"
GROUP = b"root:x:0:\nnonroot:x:65532:\n"

# What a sandbox's first process does: nothing, and collect the orphans of its Pod.
PAUSE_SOURCE = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { exit(0); }
static void reap(int s) { while (waitpid(-1, NULL, WNOHANG) > 0); }
int main(void) {
  signal(SIGTERM, end), signal(SIGINT, end), signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in an image."""

    target: str


@dataclass(frozen=True, slots=True)
class Image:
    """What an archive is made of: files by absolute path (a path on this machine, bytes, or a link), and how they run."""

    name: str
    files: Mapping[str, "Path | bytes | Link"]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    directory: str = "/"


def write(image: Image, folder: Path) -> Path:
    """Write the image as `<folder>/<short name>.tar` and return the path; the same files give the same bytes."""
    short = image.name.rpartition("/")[2].partition(":")[0]
    path = folder / f"{short}.tar"
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{short}-") as work:
        layer = Path(work) / "layer.tar"
        _write_layer(image.files, layer)
        digest = _digest(layer)
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Entrypoint": list(image.entrypoint),
                "Cmd": list(image.command),
                "Env": [f"{name}={value}" for name, value in image.environ.items()],
                "User": image.user,
                "WorkingDir": image.directory,
            },
            # Of a layer that is not compressed the digest and the diff id are one.
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
        blob = _json(config)
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, blob),
                "layers": [{"mediaType": LAYER, "digest": digest, "size": layer.stat().st_size}],
            }
        )
        names = {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        }
        index = _json({"schemaVersion": 2, "manifests": [_descriptor(MANIFEST, manifest) | {"annotations": names}]})
        new = Path(work) / "archive.tar"
        with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(tar, "index.json", index)
            for content in (blob, manifest):
                _add(tar, _blob(f"sha256:{hashlib.sha256(content).hexdigest()}"), content)
            _add(tar, _blob(digest), layer)
        new.replace(path)
    return path


def kept(key: str, make: Callable[[Path], Path]) -> Path:
    """Return the archive of this key beside the rig's programs, made when it is not there yet."""
    home = go.cache(os.environ) / "images" / key  # noqa: TID251 - where caches are
    found = sorted(home.glob("*.tar"))
    if found:
        return found[0]
    home.mkdir(parents=True, exist_ok=True)
    return make(home)


def pause(folder: Path) -> Path:
    """Return the archive of the image that holds a Pod's namespaces open."""
    with tempfile.TemporaryDirectory() as work:
        binary = Path(work) / "pause"
        source = Path(work) / "pause.c"
        source.write_text(PAUSE_SOURCE)
        _run(["gcc", "-static", "-Os", "-s", "-o", str(binary), str(source)], "run `apt-get install gcc libc6-dev`")
        return write(Image(PAUSE, {"/pause": binary}, entrypoint=["/pause"], user=str(NOBODY)), folder)


def busybox(folder: Path) -> Path:
    """Return the archive of a shell with its tools. Its `wget -T` crashes: use `timeout N wget`."""
    binary = Path("/bin/busybox")
    tools = _run([str(binary), "--list"], "run `apt-get install busybox-static`").split()
    links: dict[str, Path | bytes | Link] = {f"/bin/{tool}": Link("busybox") for tool in tools if tool != "busybox"}
    files = {"/bin/busybox": binary, "/etc/passwd": PASSWD, "/etc/group": GROUP, **links}
    return write(Image(BUSYBOX, files, command=["sh"], environ={"PATH": "/bin"}), folder)


def coredns(folder: Path) -> Path:
    """Return the archive of CoreDNS, as the rig builds it."""
    files: dict[str, Path | bytes | Link] = {
        "/coredns": go.provide(go.COREDNS),
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
    }
    return write(Image(COREDNS, files, entrypoint=["/coredns"]), folder)


def python(folder: Path) -> Path:
    """Return the archive of this interpreter with its standard library, at the path it has here."""
    image = Image(PYTHON, _python(), entrypoint=[_interpreter()], environ=_python_environ())
    return write(image, folder)


def ugallu(folder: Path, source: Path) -> Path:
    """Return the archive of the project, installed by pip for this interpreter, run by nobody in particular."""
    with tempfile.TemporaryDirectory() as work:
        site = Path(work) / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(site), str(source)]
        _run([*pip, "--no-warn-script-location", "--disable-pip-version-check"], "reach a package index")
        installed = {f"/opt/ugallu{name}": path for name, path in _tree(site)}
        files = {**_python(), **installed, **_libraries(site.rglob("*.so*"))}
        image = Image(
            UGALLU,
            files,
            entrypoint=[_interpreter(), "-m", "ugallu"],
            environ={**_python_environ(), "PYTHONPATH": "/opt/ugallu", "HOME": "/tmp"},
            user=f"{NOBODY}:{NOBODY}",
        )
        return write(image, folder)


def _interpreter() -> str:
    return str(Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}"))


def _python_environ() -> dict[str, str]:
    return {
        "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
    }


def _python() -> dict[str, "Path | bytes | Link"]:
    interpreter = _interpreter()
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    left_out = {"test", "tests", "site-packages", "dist-packages", "idlelib", "tkinter", "ensurepip", "lib2to3"}
    files: dict[str, Path | bytes | Link] = {
        interpreter: Path(interpreter),
        f"{sys.base_prefix}/bin/python3": Link(interpreter),
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
    }
    for name, path in _tree(library):
        parts = set(name.split("/"))
        if not parts & left_out and not any(part.startswith("config-") for part in parts):
            files[f"{library}{name}"] = path
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        files[str(bundle)] = bundle
    extensions = (library / "lib-dynload").glob("*.so")
    return files | _libraries([Path(interpreter), *extensions])


def _libraries(programs: Iterable[Path]) -> dict[str, "Path | bytes | Link"]:
    """Return what the dynamic loader would take from this machine for these programs, itself included."""
    found: dict[str, Path | bytes | Link] = {}
    paths = [str(path) for path in programs]
    if not paths:
        return found
    # A file that is no program makes ldd fail and still tell of the others.
    listing = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        words = line.split()
        for word in words[:1] if "=>" not in words else words[2:3]:
            if line[:1].isspace() and word.startswith("/") and Path(word).is_file():
                found[word] = Path(word).resolve()
    return found


def _tree(top: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below, with their path from there (which begins with a slash); no bytecode."""
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield str(path)[len(str(top)) :], path.resolve()


def _write_layer(files: Mapping[str, "Path | bytes | Link"], path: Path) -> None:
    # An image without a folder for temporary files surprises everybody.
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"/"} | {"/tmp"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "/tmp" else 0o755
            tar.addfile(entry)
        for name in sorted(files):
            _add(tar, name.lstrip("/"), files[name])


def _add(tar: tarfile.TarFile, name: str, content: "Path | bytes | Link") -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    if isinstance(content, Link):
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content.target, 0o777
        tar.addfile(entry)
    elif isinstance(content, bytes):
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    else:
        status = content.stat()
        entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & 0o111 else 0o644
        with content.open("rb") as file:
            tar.addfile(entry, file)


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _run(command: list[str], fix: str) -> str:
    if shutil.which(command[0]) is None:
        raise go.MissingError(f"{command[0]} is not here; {fix}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise go.MissingError(f"`{' '.join(command)}` failed; {fix}\n{done.stderr}")
    return done.stdout
