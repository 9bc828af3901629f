"""What `ugallu doctor` examines. It only looks: a sick state stays as it is, a running process undisturbed."""

import datetime as dt
import os
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec
from anyio import from_thread, to_thread

from ugallu.cli.evidence import FOLDER
from ugallu.clock import Clock
from ugallu.cluster.embedded.lock import held_by
from ugallu.cluster.port import ForbiddenError
from ugallu.errors import UgalluError
from ugallu.evidence.kit import KEY_FILE
from ugallu.settings import Settings
from ugallu.supervisor.assembly import JOURNAL

if TYPE_CHECKING:
    from ugallu.api.meta import Resource
    from ugallu.cluster.port import Cluster, Page
    from ugallu.evidence.ports import PublicKey

R = TypeVar("R", bound="Resource")
Verdict = Literal["ok", "warn", "fail"]

QUIET_SECONDS: Final = 300.0
"""An API server writes its leases every few seconds: a log this old is no longer written."""
DATABASE: Final = "cluster.db"
RESTORE_KEY: Final = "restore it; a new key cannot vouch for old evidence"
PAGE: Final = 500
ROTATE_BYTES: Final = 1 << 30
ODD_SECONDS: Final = 60.0


class Finding(msgspec.Struct, frozen=True):
    """One check: what came of it, and the line that mends it."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


def said(error: UgalluError) -> str:
    """Return where and what went wrong, without what to do about it, which a finding says apart."""
    return f"{error.where}: {error.what}" if error.where else error.what


def unseen(check: str, error: UgalluError, right: str) -> Finding:
    """Return the finding of a check that an API server did not answer; a right may be missing."""
    if isinstance(error, ForbiddenError):
        return Finding(check, "warn", f"cannot be seen: {said(error)}", f"let this user {right}")
    return Finding(check, "fail", said(error), error.fix)


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


NOTHING_SEALED: Final = Finding("archive", "ok", "nothing was sealed yet")


def installation(enable: Sequence[str] = ()) -> Iterator[Finding]:
    """Examine what is installed: every operator must be importable, and those that are to run must be there."""
    from ugallu.supervisor.registry import choose, installed

    try:
        choose(enable, installed())
    except UgalluError as error:
        yield Finding("operators", "fail", error.what, error.fix)
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
        if path.exists():
            yield Finding("state", "fail", f"{path} is no directory", "name a directory, or a place for a new one")
        else:
            yield Finding("state", "fail", f"{path} is not there", f"ugallu run --state {path} makes it")
        return
    yield _permissions(path)
    if not os.access(path, os.R_OK | os.X_OK):
        return
    checks: Sequence[tuple[str, Callable[[], Iterator[Finding]]]] = (
        ("disk", lambda: _space(path, settings)),
        ("lock", lambda: _lock(path)),
        ("key", lambda: _keys(path)),
        ("journal", lambda: _journal(path)),
        ("clock", lambda: _time(path, clock)),
    )
    for name, check in checks:
        try:
            yield from check()
        except OSError as error:
            yield _unreadable(name, path, error)


async def contents(path: Path, settings: Settings, clock: Clock, *, embedded: bool = True) -> Sequence[Finding]:
    """Examine what a state directory holds.

    Every object decodes, the log's entries make its signed root, the archive holds what was sealed. Unless `embedded`,
    the objects are elsewhere: `archived` then examines the archive.
    """
    if not os.access(path, os.R_OK | os.X_OK):
        return ()
    log = await _inside("log", path, lambda path: to_thread.run_sync(_log, path, clock))
    if not embedded:
        return [log]
    archive = await _inside("archive", path, lambda path: _archive(path, settings))
    return [await _inside("cluster", path, _cluster), log, archive]


async def archived(path: Path, cluster: "Cluster", settings: Settings) -> Finding:
    """Verify what was sealed last, by the bundles of a cluster, from the bytes in this state's archive."""
    from ugallu.cli import archive_diagnosis

    try:
        return await archive_diagnosis.examine(path, cluster, settings)
    except OSError as error:
        return _unreadable("archive", path, error)
    except UgalluError as error:
        return Finding("archive", "warn", f"cannot be examined: {said(error)}", error.fix)


async def _inside(name: str, path: Path, check: Callable[[Path], Awaitable[Finding]]) -> Finding:
    try:
        return await check(path)
    except OSError as error:
        return _unreadable(name, path, error)
    except UgalluError as error:
        return Finding(name, "fail", said(error), "restore --state from a backup")
    except ValueError as error:  # what is stored is no JSON any more
        return Finding(name, "fail", f"an object cannot be read: {error}", "restore --state from a backup")


def _unreadable(name: str, path: Path, error: OSError) -> Finding:
    denied = isinstance(error, PermissionError)
    fix = "run as the user that ugallu runs as" if denied else "look at the disk: dmesg"
    return Finding(name, "fail", f"{error.filename or path}: {error.strerror}", fix)


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


def _permissions(path: Path) -> Finding:
    status = path.stat()
    if status.st_uid != os.geteuid():
        return Finding("owner", "fail", f"{path} belongs to uid {status.st_uid}", f"chown -R $(id -u) {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        return Finding("permissions", "fail", f"others may enter {path}", f"chmod 700 {path}")
    if not os.access(path, os.W_OK):
        return Finding("permissions", "fail", f"{path} cannot be written", f"chmod u+w {path}")
    return Finding("permissions", "ok", f"{path} is ours alone")


def _space(path: Path, settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    inodes = os.statvfs(path).f_favail
    if free < 64 << 20 or inodes == 0:
        yield Finding("disk", "fail", f"{free >> 20:,} MiB free", "make room: intake stops when the disk is full")
    elif free < settings.emit.journal_bytes:
        yield Finding("disk", "warn", f"{free >> 20:,} MiB free, less than the journal may take", "--journal-bytes N")
    else:
        yield Finding("disk", "ok", f"{free >> 30:,} GiB free")


def _lock(path: Path) -> Iterator[Finding]:
    holder = held_by(path)
    yield Finding("lock", "ok", f"held by {holder}" if holder else "free: no process uses this state now")


def _keys(path: Path) -> Iterator[Finding]:
    from ugallu.evidence.signers.local import load_key

    folder = path / FOLDER
    public = folder / KEY_FILE
    # Who made evidence is known by a key that must never silently become another one.
    expected = {"attestor.key": public, "log.key": folder / "keys" / "log.witness"}
    found = {file.name: file for file in sorted(path.rglob("*.key"))}
    for name, trace in expected.items():
        if name not in found and trace.exists():
            yield Finding(f"key {name}", "fail", f"{folder / 'keys' / name} is gone", RESTORE_KEY)
    for name, file in found.items():
        try:
            key = load_key(file)
            other = name == "attestor.key" and public.exists() and not _same(key.public, public)
        except UgalluError as error:
            yield Finding(f"key {name}", "fail", said(error), error.fix)
            continue
        if other:
            yield Finding(f"key {name}", "fail", f"{public} is not its public half", RESTORE_KEY)
        else:
            yield Finding(f"key {name}", "ok", f"{key.public.key_id}, readable by us alone")
    if not found and not public.exists():
        yield Finding("key", "ok", "none yet; it is made when the first event is sealed")


def _same(key: "PublicKey", file: Path) -> bool:
    from ugallu.evidence import keys

    try:
        return keys.from_pem(file.read_bytes(), where=str(file)).key_id == key.key_id
    except UgalluError:
        return False


async def _cluster(path: Path) -> Finding:
    """Read and decode every object, as a reader beside the writer."""
    from ugallu.api.bundle import AttestationBundle, BundlePhase
    from ugallu.api.event import SecurityEvent
    from ugallu.api.sigma import SigmaRule
    from ugallu.cli.state import reading

    if not (path / DATABASE).exists():
        if any((path / JOURNAL).glob("*.seg")) or (path / FOLDER).exists():
            return Finding("cluster", "fail", f"{DATABASE} is gone, and its events with it", "restore it from a backup")
        return Finding("cluster", "ok", "none yet; `ugallu run` makes it")
    kinds: tuple[type[Resource], ...] = (SecurityEvent, AttestationBundle, SigmaRule)
    counts, unread, unsealed = dict.fromkeys((kind.kind_info.plural for kind in kinds), 0), 0, 0
    async with reading(path) as cluster:
        for kind in kinds:
            async for page in pages(cluster, kind):
                counts[kind.kind_info.plural] += len(page.items)
                unread += page.skipped
                unsealed += sum(
                    isinstance(item, AttestationBundle) and item.status.phase is not BundlePhase.SEALED
                    for item in page.items
                )
    told = ", ".join(f"{count:,} {plural}" for plural, count in counts.items())
    if unread:
        return Finding(
            "cluster",
            "fail",
            f"{unread:,} objects cannot be decoded",
            "restore --state from a backup, unless a newer release wrote it",
        )
    if unsealed:
        return Finding(
            "cluster", "warn", f"{told}; {unsealed:,} not sealed", "`ugallu run` goes on where sealing stopped"
        )
    return Finding("cluster", "ok", told)


async def pages(cluster: "Cluster", kind: "type[R]") -> "AsyncIterator[Page[R]]":
    """Yield all objects of a kind, some at a time."""
    token, more = "", True
    while more:
        page = await cluster.list(kind, limit=PAGE, continue_token=token)
        yield page
        token = page.continue_token
        more = bool(token)


async def _archive(path: Path, settings: Settings) -> Finding:
    from ugallu.cli import archive_diagnosis
    from ugallu.cli.state import reading

    if not (path / DATABASE).exists():
        return NOTHING_SEALED
    async with reading(path) as cluster:
        return await archive_diagnosis.examine(path, cluster, settings)


def _journal(path: Path) -> Iterator[Finding]:
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
        yield Finding("journal", "fail", lost, "check the disk; the damage is counted and skipped at the next start")
    elif not segments and any((path / JOURNAL / "cursors").glob("*")):
        yield Finding("journal", "fail", "its segments are gone", "restore --state from a backup")
    elif torn and not held_by(path):
        cut = f"{torn:,} bytes were never acknowledged"
        yield Finding("journal", "warn", cut, "nothing to do: the next start cuts them off")
    else:
        yield Finding("journal", "ok", f"{records:,} records in {len(segments)} segments, {size:,} bytes")


def _log(path: Path, clock: Clock) -> Finding:
    """Rebuild the log's tree from its leaves and compare it with the signed checkpoint, on a copy.

    Opening a log repairs what a crash left behind; a doctor must not.
    """
    from tempfile import TemporaryDirectory

    from ugallu.evidence.logs.tiles import TileLog
    from ugallu.evidence.signers.local import load_key

    folder = path / FOLDER
    if not (folder / "log").is_dir() and (folder / "keys" / "log.witness").exists():
        return Finding(
            "log", "fail", f"{folder / 'log'} is gone", "restore it from a backup: new entries would fork it"
        )
    if not (folder / "log").is_dir():
        return Finding("log", "ok", "none yet; it begins when the first event is sealed")
    if held_by(path):
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
        what = error.what if isinstance(error, UgalluError) else f"{error.filename}: {error.strerror}"
        return Finding("log", "fail", what, "keep the disk as it is and find out who changed it")


def _time(path: Path, clock: Clock) -> Iterator[Finding]:
    newest = max((file.stat().st_mtime for file in path.rglob("*") if file.is_file()), default=0.0)
    ahead = newest - clock.now().timestamp()
    if ahead > ODD_SECONDS:
        when = dt.datetime.fromtimestamp(newest, dt.UTC)
        yield Finding(
            "clock", "fail", f"the state was written at {when:%Y-%m-%d %H:%M:%S} UTC, which is to come", "timedatectl"
        )
        return
    yield Finding("clock", "ok", f"{clock.now():%Y-%m-%d %H:%M:%S} UTC, behind nothing that was written")
