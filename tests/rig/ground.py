"""What a cluster stands on: a folder, a name, processes that bear it, and a keeper that clears all of it in the end."""

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.rig import keeper

PREFIX = "ug-"
LOCK = "lock"
Found = TypeVar("Found")


class RigError(Exception):
    """A part of the cluster does not do what was asked; the message holds the last lines of its log."""


def wait(
    what: str,
    check: Callable[[], Found | None],
    seconds: float = 30.0,
    every: float = 0.05,
    hint: Callable[[], str] = str,
) -> Found:
    """Ask until the answer is true in the sense of `if` and return it; raises `RigError` with the hint when time is over."""
    end = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise RigError(f"{what}: not within {seconds:g} s\n{hint()}".rstrip())
        time.sleep(every)  # noqa: TID251 - real processes are polled, with a bound


class Process:
    """A program that runs until it is stopped, with its log in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._environ = dict(environ)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start the program; a session of its own keeps the terminal's Ctrl-C away from it."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
                cwd=self.log.parent,
            )

    def stop(self, with_signal: signal.Signals = signal.SIGKILL, seconds: float = 60.0) -> None:
        """Send the signal and wait for the end; a process that does not end is killed and reported."""
        if self._popen is None:
            return
        self._popen.send_signal(with_signal)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._popen.kill()
            self._popen.wait()
            raise RigError(
                f"{self.name} did not end within {seconds:g} s of {with_signal.name}\n{self.tail()}"
            ) from error

    def reap(self) -> None:
        """Collect a process that somebody else has killed."""
        if self._popen is not None:
            self._popen.wait()

    def pause(self) -> None:
        """Stop the process where it stands (SIGSTOP); its connections stay open and silent."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        if not self.log.exists():
            return f"{self.name} has written no log"
        last = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- end of {self.log.name}", *last])

    def check(self) -> None:
        """Raise `RigError` if the process has ended."""
        if not self.alive:
            status = None if self._popen is None else self._popen.returncode
            raise RigError(f"{self.name} ended with status {status}\n{self.tail()}")


class Ground:
    """The folder `<temp>/ug-N`, whose existence reserves the name and the number, and the keeper that clears all of it."""

    def __init__(self) -> None:
        sweep()
        self.folder, self.number = _reserve()
        self.name = self.folder.name
        # Held by the owner and the keeper: as long as one of them lives, nobody sweeps this folder.
        self._lock = (self.folder / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.log = self.folder / "log"
        self.log.mkdir()
        self.processes: list[Process] = []
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            pass_fds=[self._lock.fileno()],
            start_new_session=True,
        )

    @property
    def environ(self) -> dict[str, str]:
        """The environment of everything that belongs here; the marker is how the keeper finds it."""
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            keeper.MARKER: str(self.folder),
        }

    def process(self, name: str, *command: str) -> Process:
        """Return a program of this cluster, not yet started."""
        process = Process(name, command, self.log / f"{name}.log", self.environ)
        self.processes.append(process)
        return process

    def clear(self) -> None:
        """Have the keeper end all processes and remove everything; raises `RigError` if something stays."""
        if self._lock.closed:
            return
        try:
            self._keeper.communicate(b"clear", timeout=60)
        except subprocess.TimeoutExpired as error:
            raise RigError(f"{self.folder} is still there 60 s after it was given up") from error
        finally:
            self._lock.close()
        for process in self.processes:
            process.reap()
        if self._keeper.returncode:
            raise RigError(f"something of {self.folder} could not be removed")


def sweep() -> None:
    """Clear what clusters left behind whose owner and keeper were both killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            # A folder this young may not have its lock yet.
            young = time.time() - folder.stat().st_mtime < 10  # noqa: TID251 - the age of a file
            if young or not folder.name.removeprefix(PREFIX).isdecimal():
                continue
            with (folder / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                keeper.clear(folder)
        except OSError:
            # Held, or gone meanwhile, or somebody else's.
            continue


def _reserve() -> tuple[Path, int]:
    for number in range(256):
        folder = Path(tempfile.gettempdir(), f"{PREFIX}{number}")
        # Another temporary folder may have handed out the same name.
        if Path("/sys/class/net", folder.name).exists():
            continue
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            continue
        return folder, number
    raise RigError(f"256 clusters are there already: look at {tempfile.gettempdir()}/{PREFIX}*")


def answers(url: str) -> bool:
    """Tell whether a server answers a GET with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """Return a free TCP port below the range that outgoing connections are given from."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
