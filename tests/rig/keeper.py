"""Clears the ground of a cluster when its owner says so, or is gone: nobody has to remember to clean up.

Runs as a process of its own, in its own session, so that neither Ctrl-C nor a crash nor `kill -9` of the owner reaches it.
All that a cluster leaves on a machine bears its name, so it is found by name, never by a list that may be incomplete: processes
by the marker in their environment; link and cgroups by their name; mounts by the folder. Only the
standard library: it starts in 20 ms and needs nothing of the project.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARKER = "UGALLU_RIG_CLUSTER"
CGROUPS = Path("/sys/fs/cgroup")
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


def clear(folder: Path) -> bool:
    """Remove everything that bears this cluster's name and say whether all of it is gone. May be called again."""
    end = time.monotonic() + 45
    while (pids := list(processes(folder))) and time.monotonic() < end:
        for pid in pids:
            kill(pid)
        time.sleep(0.02)  # noqa: TID251 - a process apart from the tests
    name = folder.name
    for top in cgroups(name):
        while top.exists() and time.monotonic() < end:
            for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                rmdir(path)
            rmdir(top)
            time.sleep(0.02)  # noqa: TID251 - the kernel empties a killed cgroup when it gets to it
    if Path("/sys/class/net", name).exists():
        subprocess.run(["ip", "link", "delete", name], check=False)
    for mount in sorted(mounts(folder), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    # Never walk into a mount: what is bound there is not ours.
    if list(mounts(folder)):
        return False
    limits(folder)
    # The folder is last: its existence reserves the name.
    try:
        shutil.rmtree(folder)
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the owner may be gone
        return False
    return time.monotonic() < end


def limits(folder: Path) -> None:
    """Put the machine's limit back that a node had raised (its file `inotify` says what it was), unless another node needs it."""
    before = folder / "inotify"
    others = [path for path in folder.parent.glob("ug-*/inotify") if path != before]
    if before.exists() and not others:
        INOTIFY.write_text(before.read_text())


def processes(folder: Path) -> Iterator[int]:
    """Yield the ids of the living processes that carry the marker of this cluster; zombies have no environment."""
    wanted = f"{MARKER}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if wanted in environ.split(b"\0"):
                yield int(entry.name)


def cgroups(name: str) -> Iterator[Path]:
    """Yield the top groups of this cluster in every hierarchy."""
    for top in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")):
        if top.is_dir():
            yield top


def mounts(folder: Path) -> Iterator[str]:
    """Yield the mount points below the folder, as this process sees them."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4]
        if point == str(folder) or point.startswith(f"{folder}/"):
            yield point


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return


def main() -> None:
    """Wait for a word or the end of the pipe on standard input, or for the end of the owner; then clear."""
    folder, owner = Path(sys.argv[1]), int(sys.argv[2])
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    watched = [0]
    try:
        watched.append(os.pidfd_open(owner))
    except ProcessLookupError:
        watched.clear()
    if watched:
        select.select(watched, [], [])
    sys.exit(0 if clear(folder) else 1)


if __name__ == "__main__":
    main()
