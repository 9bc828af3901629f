"""What `ugallu doctor` examines. It only looks: a sick state stays as it is, a running process undisturbed."""

import datetime as dt
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from anyio import from_thread, to_thread

from ugallu.cli.evidence import FOLDER
from ugallu.clock import Clock
from ugallu.errors import UgalluError
from ugallu.settings import Settings
from ugallu.supervisor.assembly import JOURNAL

if TYPE_CHECKING:
    from ugallu.api.meta import Resource

Verdict = Literal["ok", "warn", "fail"]

QUIET_SECONDS: Final = 300.0
"""An API server writes its leases every few seconds: a log this old is no longer written."""
LOCK: Final = "cluster.lock"
ROTATE_BYTES: Final = 1 << 30
ODD_SECONDS: Final = 60.0


class Finding(msgspec.Struct, frozen=True):
    """One check: what came of it, and the line that mends it."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


def installation() -> Iterator[Finding]:
    """Examine what is installed: every operator must be importable."""
    from ugallu.supervisor.registry import installed

    for line in installed().values():
        try:
            operator = line.load()
        except UgalluError as error:
            yield Finding(f"operator {line.name}", "fail", error.what, error.fix)
        else:
            yield Finding(f"operator {line.name}", "ok", f"{len(operator.emits)} event types, from {line.distribution}")
    if not installed():
        yield Finding("operators", "fail", "none is installed", "pip install --force-reinstall ugallu")


def state(path: Path, settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Examine a state directory as files; `contents` looks inside."""
    if not path.is_dir():
        yield Finding("state", "fail", f"{path} is not there", f"ugallu run --state {path} makes it")
        return
    holder = _holder(path / LOCK)
    yield from _permissions(path)
    yield _space(path, settings)
    yield Finding("lock", "ok", f"held by {holder}" if holder else "free: no process uses this state now")
    yield from _keys(path)
    yield _journal(path, busy=bool(holder))
    yield _time(path, clock)


async def contents(path: Path, clock: Clock) -> Sequence[Finding]:
    """Examine what a state directory holds: every object decodes, the log's entries make its signed root."""
    return await _cluster(path), await to_thread.run_sync(_log, path, clock)


def audit_logs(paths: Sequence[Path], clock: Clock) -> Iterator[Finding]:
    """Examine the audit logs that are to be read: there, readable, alive, rotated."""
    for path in paths:
        name = f"audit log {path}"
        try:
            with path.open("rb") as file:
                start = file.read(1)
            status = path.stat()
        except OSError as error:
            denied = isinstance(error, PermissionError)
            fix = f"setfacl -m u:$(id -un):r {path}" if denied else "is --audit-log-path of the API server this file?"
            yield Finding(name, "fail", error.strerror or str(error), fix)
            continue
        age = clock.now().timestamp() - status.st_mtime
        if not start:
            yield Finding(name, "warn", "is empty", "does the API server run with --audit-policy-file?")
        elif age > QUIET_SECONDS:
            yield Finding(
                name, "warn", f"was last written {age:,.0f} s ago", "is this the log that the API server writes?"
            )
        elif status.st_size > ROTATE_BYTES and not list(path.parent.glob(f"{path.stem}-*{path.suffix}*")):
            yield Finding(name, "warn", f"{status.st_size:,} bytes and never rotated", "--audit-log-maxsize=100")
        else:
            yield Finding(name, "ok", f"readable, written {max(age, 0):,.0f} s ago")


def _permissions(path: Path) -> Iterator[Finding]:
    status = path.stat()
    if status.st_uid != os.geteuid():
        yield Finding("owner", "fail", f"{path} belongs to uid {status.st_uid}", f"chown -R $(id -u) {path}")
    elif stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("permissions", "fail", f"others may enter {path}", f"chmod 700 {path}")
    elif not os.access(path, os.W_OK):
        yield Finding("permissions", "fail", f"{path} cannot be written", f"chmod u+w {path}")
    else:
        yield Finding("permissions", "ok", f"{path} is ours alone")


def _space(path: Path, settings: Settings) -> Finding:
    free = shutil.disk_usage(path).free
    inodes = os.statvfs(path).f_favail
    if free < 64 << 20 or inodes == 0:
        return Finding("disk", "fail", f"{free >> 20:,} MiB free", "make room: intake stops when the disk is full")
    if free < settings.emit.journal_bytes:
        return Finding("disk", "warn", f"{free >> 20:,} MiB free, less than the journal may take", "--journal-bytes N")
    return Finding("disk", "ok", f"{free >> 30:,} GiB free")


def _holder(lock: Path) -> str:
    """Return who holds the lock, empty when nobody does: it is the kernel's, held if and only if its holder lives."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
    finally:
        os.close(descriptor)
    return ""


def _keys(path: Path) -> Iterator[Finding]:
    from ugallu.evidence.signers.local import load_key

    found = sorted(path.rglob("*.key"))
    for file in found:
        try:
            key = load_key(file)
        except UgalluError as error:
            yield Finding(f"key {file.name}", "fail", error.what, error.fix)
        else:
            yield Finding(f"key {file.name}", "ok", f"{key.public.key_id}, readable by us alone")
    if not found:
        yield Finding("key", "ok", "none yet; it is made when the first event is sealed")


async def _cluster(path: Path) -> Finding:
    """Read and decode every object, as a reader beside the writer."""
    from ugallu.api.bundle import AttestationBundle, BundlePhase
    from ugallu.api.event import SecurityEvent
    from ugallu.api.sigma import SigmaRule
    from ugallu.cli.state import reading

    kinds: tuple[type[Resource], ...] = (SecurityEvent, AttestationBundle, SigmaRule)
    counts, unread, unsealed = dict.fromkeys((kind.kind_info.plural for kind in kinds), 0), 0, 0
    try:
        async with reading(path) as cluster:
            for kind in kinds:
                token, more = "", True
                while more:
                    page = await cluster.list(kind, continue_token=token)
                    counts[kind.kind_info.plural] += len(page.items)
                    unread += page.skipped
                    unsealed += sum(
                        isinstance(item, AttestationBundle) and item.status.phase is not BundlePhase.SEALED
                        for item in page.items
                    )
                    token = page.continue_token
                    more = bool(token)
    except UgalluError as error:
        return Finding("cluster", "fail", error.what, error.fix or "restore cluster.db from a backup")
    told = ", ".join(f"{count:,} {plural}" for plural, count in counts.items())
    if unread:
        return Finding(
            "cluster", "fail", f"{unread:,} objects cannot be decoded", "was this state written by a newer release?"
        )
    if unsealed:
        return Finding(
            "cluster", "warn", f"{told}; {unsealed:,} not sealed", "`ugallu run` goes on where sealing stopped"
        )
    return Finding("cluster", "ok", told)


def _journal(path: Path, *, busy: bool) -> Finding:
    """Survey every segment: whole frames, or bytes that are none."""
    from ugallu.journal import frames

    segments = sorted((path / JOURNAL).glob("*.seg"))
    records = damaged = torn = 0
    firsts: list[int] = []
    for segment in segments:
        with segment.open("rb") as file:
            header = frames.decode_header(file.read(frames.HEADER_BYTES))
        firsts.append(header.first if header else 0)
    for index, segment in enumerate(segments):
        data = segment.read_bytes()
        following = firsts[index + 1] if index + 1 < len(segments) else None
        verdict = frames.judge(frames.survey(data), len(data), firsts[index], following)
        records += sum(frame.following - frame.first for frame in verdict.frames)
        damaged += verdict.missing
        torn += verdict.torn
    size = sum(segment.stat().st_size for segment in segments)
    if damaged:
        lost = f"{damaged:,} records are damaged"
        return Finding("journal", "fail", lost, "check the disk; the damage is counted and skipped at the next start")
    if torn and not busy:
        cut = f"{torn:,} bytes were never acknowledged"
        return Finding("journal", "warn", cut, "nothing to do: the next start cuts them off")
    return Finding("journal", "ok", f"{records:,} records in {len(segments)} segments, {size:,} bytes")


def _log(path: Path, clock: Clock) -> Finding:
    """Rebuild the log's tree from its leaves and compare it with the signed checkpoint, on a copy.

    Opening a log repairs what a crash left behind; a doctor must not.
    """
    from tempfile import TemporaryDirectory

    from ugallu.evidence.logs.tiles import TileLog
    from ugallu.evidence.signers.local import load_key

    folder = path / FOLDER
    if not (folder / "log").is_dir():
        return Finding("log", "ok", "none yet; it begins when the first event is sealed")
    if _holder(path / LOCK):
        return Finding("log", "ok", "in use; its owner proves the tree at every start")
    try:
        key = load_key(folder / "keys" / "log.key")
        with TemporaryDirectory(prefix="ugallu-doctor-") as copy:
            shutil.copytree(folder / "log", Path(copy) / "log")
            witness = Path(copy) / "log.witness"
            if (folder / "keys" / "log.witness").exists():
                shutil.copyfile(folder / "keys" / "log.witness", witness)
            log = TileLog(Path(copy) / "log", key, witness, clock)
            try:
                from_thread.run(log.audit)
                return Finding("log", "ok", f"{log.size:,} entries make the signed root of {log.origin}")
            finally:
                log.close()
    except (UgalluError, OSError) as error:
        what = error.what if isinstance(error, UgalluError) else str(error)
        return Finding("log", "fail", what, "keep the disk as it is and find out who changed it")


def _time(path: Path, clock: Clock) -> Finding:
    newest = max((file.stat().st_mtime for file in path.rglob("*") if file.is_file()), default=0.0)
    ahead = newest - clock.now().timestamp()
    if ahead > ODD_SECONDS:
        when = dt.datetime.fromtimestamp(newest, dt.UTC)
        return Finding(
            "clock", "fail", f"the state was written at {when:%Y-%m-%d %H:%M:%S} UTC, which is to come", "timedatectl"
        )
    return Finding("clock", "ok", f"{clock.now():%Y-%m-%d %H:%M:%S} UTC, behind nothing that was written")
