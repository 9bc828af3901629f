"""What a node needs from Debian: the container runtime and the kernel's tools."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.rig.go import MissingError

# A program or file, and the package that brings it.
NEEDED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "gcc": "gcc libc6-dev",
}


def missing(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """Return the packages that have to be installed."""
    packages: list[str] = []
    for name, package in needed.items():
        there = Path(name).exists() if name.startswith("/") else shutil.which(name) is not None
        if not there and package not in packages:
            packages.append(package)
    return packages


def provide(needed: Mapping[str, str] = NEEDED, who: str = "a node") -> None:
    """Install what is missing where that is possible; raises `MissingError` with the command otherwise."""
    if os.geteuid() != 0:
        raise MissingError(
            f"{who} needs root: it makes namespaces, mounts and cgroups of its own; run the tests as root"
        )
    packages = " ".join(missing(needed)).split()
    if not packages:
        return
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    fix = f"run `{' '.join(install)}`"
    if shutil.which("apt-get") is None:
        raise MissingError(f"{who} needs {', '.join(packages)}; {fix}, or what equals it here")
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    said = ""
    # The lists may be old or absent: a second try reads them anew.
    for command in (install, ["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        if command is install and done.returncode == 0:
            break
    if missing(needed):
        raise MissingError(f"`{' '.join(install)}` failed\n{said}")
