"""Breaks the product at random points and checks its history: nothing lost, nothing doubled, the books close.

Each point replays (or follows) a slice of the recorded incident in a forked child whose disk fails at its N-th
operation: the process is killed before or after it, the disk is full for a while, or an fsync fails. The child is then
started again on the same state until it ends by itself, and what it left is compared with an uninterrupted run: event
names and digests, sealed bundles, entries in the log, the ledger.

    python tests/faults/history.py --points 300 --seed 7
"""

import argparse
import errno
import functools
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
Fault = Literal["none", "kill-before", "kill-after", "enospc", "fsync"]
Mode = Literal["replay", "run"]
PATIENCE = 90.0


class Plan(NamedTuple):
    """What breaks: `fault` at the `at`-th disk operation; a refusing disk refuses for `length` twentieths of a second."""

    fault: Fault = "none"
    at: int = 0
    length: int = 1


class Disk:
    """Counts what a process does to its disk, and breaks it by plan. Patches this process for good: fork first."""

    WRITES = ("pwrite", "write")
    NAMES = ("replace", "rename", "link", "mkdir", "unlink", "ftruncate")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.count = 0
        self.until = 0.0
        self.owner = os.getpid()

    def install(self) -> None:
        """Patch `os` and sqlite3."""
        for name in (*self.WRITES, *self.NAMES, "fsync", "fdatasync"):
            setattr(os, name, self._broken(name, getattr(os, name)))
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                word = sql.lstrip()[:8].upper()
                if not word.startswith(("INSERT", "UPDATE", "DELETE", "REPLACE", "COMMIT", "BEGIN")):
                    return super().execute(sql, *args)
                act = functools.partial(super().execute, sql, *args)
                done: sqlite3.Cursor = disk.strike(
                    "sqlite", act, full=sqlite3.OperationalError("database or disk is full")
                )
                return done

        setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))  # noqa: B010 - mypy knows its overloads

    def _broken(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self.owner or (name == "write" and args[0] in (1, 2)):
                return real(*args, **kwargs)
            return self.strike(
                name, lambda: real(*args, **kwargs), full=OSError(errno.ENOSPC, "No space left (injected)")
            )

        return call

    def strike(self, name: str, act: Callable[[], Any], *, full: Exception) -> Any:
        """Do the operation, unless this is where the plan strikes."""
        self.count += 1
        fault, at, length = self.plan
        if fault == "none" or self.count < at:
            return act()
        # By time and not by number: whoever waits longer between tries must not see a longer outage.
        self.until = self.until or time.monotonic() + length * 0.05
        if time.monotonic() > self.until:
            return act()
        if fault == "kill-before":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "kill-after":
            act()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "enospc" and (name in self.WRITES or name in ("sqlite", "mkdir", "link")):
            raise full
        if fault == "fsync" and name in ("fsync", "fdatasync"):
            act()
            raise OSError(errno.EIO, "Input/output error (injected)")
        return act()


class Outcome(msgspec.Struct):
    """What a finished run left behind."""

    events: dict[str, str]
    bundles: dict[str, str]
    log_size: int
    vouched: int
    """Entries of the log that a bundle names; several events may share one."""
    ledger: dict[str, Any]


def forked(body: Callable[[], int]) -> int:
    """Run `body` in a child; return its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = body()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; return its exit code, negative for a signal. One that hangs is killed and reported."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)  # noqa: TID251 - a real process on a real clock
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a run did not end within {PATIENCE:.0f} s")


def product(mode: Mode, audit: Path, state: Path, plan: Plan, out: Path) -> int:
    """The child: the command line itself, over a disk that breaks by plan."""
    from ugallu.cli.main import main

    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    disk = Disk(plan)
    disk.install()
    common = ["--state", str(state)]
    if mode == "replay":
        code = main(["replay", str(audit), "--rules", str(EXAMPLES / "rules"), "--json", *common])
    else:
        quiet = ["--health", "", "--metrics", "", "--instance", "history"]
        code = main(
            ["run", "--audit-log", str(audit), "--from-start", "--rules", str(EXAMPLES / "rules"), *quiet, *common]
        )
    (out / "operations").write_text(str(disk.count))
    return code


def look(state: Path) -> Outcome:
    """Read what a state directory holds, in a child of its own so that nothing of it stays in this process."""
    reading, writing = os.pipe()

    def body() -> int:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(msgspec.json.encode(_look(state)))
        return 0

    pid = forked(body)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    assert ended(pid) == 0, "the state could not be read"
    return msgspec.json.decode(data, type=Outcome)


def _look(state: Path) -> Outcome:
    import anyio

    from ugallu.api.bundle import AttestationBundle
    from ugallu.api.event import SecurityEvent
    from ugallu.cluster.embedded.cluster import EmbeddedCluster
    from ugallu.cluster.port import list_all

    async def read() -> tuple[dict[str, str], dict[str, str], set[int]]:
        cluster = EmbeddedCluster.open(state, read_only=True)
        try:
            events, _ = await list_all(cluster, SecurityEvent)
            bundles, _ = await list_all(cluster, AttestationBundle)
        finally:
            await cluster.close()
        return (
            {
                e.metadata.name: ("occurrences " if "occurrences" in e.spec.signals else "")
                + hashlib.sha256(msgspec.json.encode(e.spec, order="sorted")).hexdigest()
                for e in events
            },
            {b.metadata.name: f"{b.status.phase} {b.status.statement_digest != ''}" for b in bundles},
            {b.status.rekor_entry.log_index for b in bundles if b.status.rekor_entry is not None},
        )

    events, bundles, entries = anyio.run(read)
    checkpoints = sorted(state.rglob("checkpoint"))
    size = int(checkpoints[0].read_text().splitlines()[1]) if checkpoints else 0
    return Outcome(events, bundles, size, len(entries), {})


def slice_of_the_incident(into: Path) -> Path:
    """Write the attack and the life around it, and some lines that are no events; return the file."""
    lines = gzip.decompress((EXAMPLES / "audit.jsonl.gz").read_bytes()).splitlines(keepends=True)
    part = [line for line in lines if b'"stageTimestamp":"2026-11-25T01:03:' in line]
    path = into / "audit.log"
    path.write_bytes(b"".join([*part[:200], b'{"kind":"Event", broken\n', b"\n", *part[200:]]))
    return path


def finish(mode: Mode, audit: Path, state: Path, plan: Plan, out: Path, expected: int | None) -> int:
    """Run once; a `run` is told to stop as soon as everything expected is sealed. Returns the exit code.

    A `run` that finds its work done may be told to stop before it listens for signals: that is a good end too.
    """
    out.mkdir(exist_ok=True)
    pid = forked(lambda: product(mode, audit, state, plan, out))
    if mode == "run" and expected is not None:
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if sealed(state) >= expected:
                os.kill(pid, signal.SIGTERM)
                break
            time.sleep(0.05)  # noqa: TID251 - a real process on a real clock
        code = ended(pid)
        return 0 if code == -signal.SIGTERM else code
    return ended(pid)


def sealed(state: Path) -> int:
    """Count sealed bundles while the writer goes on; 0 while there is nothing to read yet."""
    if not (state / "cluster.db").exists():
        return 0
    try:
        return sum(phase.startswith("Sealed") for phase in look(state).bundles.values())
    except AssertionError:
        return 0


def baseline(mode: Mode, audit: Path, work: Path, expected: int | None = None) -> tuple[Outcome, int]:
    """Run without faults; return what it left and how many disk operations it took."""
    state, out = work / f"{mode}-state", work / f"{mode}-out"
    code = finish(mode, audit, state, Plan(), out, expected)
    assert code == 0, f"the run without faults failed ({code}): {(out / 'stderr').read_text()[-2000:]}"
    return look(state), int((out / "operations").read_text())


class Verdict(NamedTuple):
    """One point: what broke, how the broken run ended, and what is wrong with its history (empty: nothing)."""

    mode: Mode
    plan: Plan
    exit: int
    wrong: list[str]


def try_point(mode: Mode, plan: Plan, audit: Path, work: Path, good: Outcome) -> Verdict:
    """Break one run, let it finish, and compare."""
    state, out = work / "state", work / "out"
    for folder in (state, out):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        first = finish(mode, audit, state, plan, out, len(good.events))
        again = first
        for _ in range(3):
            if again == 0:
                break
            again = finish(mode, audit, state, Plan(), out, len(good.events))
        wrong = [] if again == 0 else [f"it never ended well again: {(out / 'stderr').read_text()[-1500:]}"]
        wrong += compare(good, look(state))
    except AssertionError as error:
        return Verdict(mode, plan, -1, [str(error)])
    if mode == "replay" and not wrong:
        wrong += check_books((out / "stderr").read_text(), good)
    return Verdict(mode, plan, first, wrong)


def compare(good: Outcome, found: Outcome) -> list[str]:
    """Say how two histories differ."""
    wrong = [f"lost event {name}" for name in good.events.keys() - found.events.keys()]
    wrong += [f"invented event {name}" for name in found.events.keys() - good.events.keys()]
    wrong += [
        f"changed event {n}" for n in good.events.keys() & found.events.keys() if good.events[n] != found.events[n]
    ]
    wrong += [
        f"bundle {name} is {found.bundles.get(name)}"
        for name, phase in good.bundles.items()
        if found.bundles.get(name) != phase
    ]
    # How many share an entry depends on when they came; that nothing was logged a second time does not.
    if found.log_size != found.vouched:
        wrong.append(f"{found.log_size} entries in the log, {found.vouched} of them in bundles")
    return wrong


def check_books(stderr: str, good: Outcome) -> list[str]:
    """Check that the ledger of the last run closes."""
    lines = [line for line in stderr.splitlines() if line.startswith("{") and '"received"' in line]
    if not lines:
        return ["no ledger on stderr"]
    books = json.loads(lines[-1])
    dropped = sum(books["dropped"].values()) if isinstance(books["dropped"], dict) else books["dropped"]
    wrong = []
    if books["received"] != books["parsed"] + books["rejected"] + books.get("duplicate", 0):
        wrong.append(f"received {books['received']} is not parsed + rejected: {books}")
    if books["matched"] != books["emitted"] + books["folded"] + dropped:
        wrong.append(f"matched {books['matched']} is not emitted + folded + dropped: {books}")
    if books["sealed"] != len(good.events):
        wrong.append(f"sealed {books['sealed']} of {len(good.events)}: {books}")
    return wrong


def points(count: int, seed: int, operations: dict[Mode, int]) -> list[tuple[Mode, Plan]]:
    """Draw the points: two in three from replay, the rest from run; half of them kill."""
    chance = random.Random(seed)
    drawn: list[tuple[Mode, Plan]] = []
    for number in range(count):
        mode: Mode = "run" if number % 3 == 2 else "replay"
        fault: Fault = chance.choice(["kill-before", "kill-after", "enospc", "fsync"])
        length = 1 if fault.startswith("kill") else chance.choice([1, 2, 8, 40])
        drawn.append((mode, Plan(fault, chance.randint(1, operations[mode]), length)))
    return drawn


def main() -> int:
    """Try the points and print a line for each that left a wrong history; exit 1 if any did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=["replay", "run"], help="one mode alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ugallu-faults-") as folder:
        work = Path(folder)
        audit = slice_of_the_incident(work)
        replayed, operations = baseline("replay", audit, work)
        # A run that is told to stop leaves its folds open: their closing events belong to the ends of replays.
        summaries = sum("occurrences" in text for text in replayed.events.values())
        good: dict[Mode, Outcome] = {"replay": replayed}
        counts: dict[Mode, int] = {"replay": operations, "run": operations}
        if args.only != "replay":
            good["run"], counts["run"] = baseline("run", audit, work, len(replayed.events) - summaries)
        for name, outcome in good.items():
            print(
                f"{name} without faults: {len(outcome.events)} events, {outcome.log_size} log entries, {counts[name]} operations"
            )
        drawn = [(mode, plan) for mode, plan in points(args.points, args.seed, counts) if mode in (args.only, mode)]
        bad = tried = 0
        for mode, plan in drawn:
            if args.only and mode != args.only:
                continue
            tried += 1
            verdict = try_point(mode, plan, audit, work, good[mode])
            if verdict.wrong:
                bad += 1
                print(f"FAILED {mode} {plan.fault} at {plan.at} for {plan.length / 20} s (exit {verdict.exit})")
                for line in verdict.wrong[:5]:
                    print(f"    {line}")
        print(f"{tried} points, {bad} with a wrong history", flush=True)
    return 1 if bad or not tried else 0


if __name__ == "__main__":
    raise SystemExit(main())
