"""An exported folder: the list that binds it, and what in the folder is not as the list has it.

`manifest.json` names every file by its digest, and every fact with the files that prove it. `SHA256SUMS` follows from
it, so that `sha256sum -c` reads what binds the folder, the manifest included; each of the two tells of a change in the
other. Who could rewrite all of it is stopped by the digest of the manifest alone, kept elsewhere.
"""

import enum
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.canonical import digest
from ugallu.evidence.encoding import refuse_doubles
from ugallu.evidence.files import create_whole, sync_directory, sync_file

SCHEMA: Final = "ugallu.io/incident/v1"
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
MAX_MANIFEST: Final = 64 << 20
MAX_FILES: Final = 200_000
MAX_FILE: Final = 64 << 20
"""Of what is read whole; blobs are hashed piece by piece, whatever their size."""

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,199}){0,2}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PIECE: Final = 1 << 20


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """A part of the manifest: camel case, nothing unknown."""


class File(_Part, frozen=True, kw_only=True):
    """One file. `sha256` is `sha256:<hex>`, `size` in bytes."""

    path: str
    sha256: str
    size: int


class Key(_Part, frozen=True, kw_only=True):
    """A key under which signatures in here hold, and its file."""

    key_id: str = msgspec.field(name="keyID")
    path: str


class Name(_Part, frozen=True, kw_only=True):
    """An identity under which signatures in here hold."""

    identity: str
    issuer: str


class Fact(_Part, frozen=True, kw_only=True):
    """An event or a response, and the files that prove it; with a `gap` nothing does."""

    kind: str
    name: str
    uid: str
    object: str
    """The object as it was found: status and labels are what the cluster says, and nobody signed them."""
    spec: str = ""
    """The attested bytes."""
    bundles: tuple[str, ...] = ()
    """One for each who signed; all hold. Facts that were sealed together share them."""
    attestation: str = ""
    """The AttestationBundle as it was found."""
    archived: str = ""
    """Where in the evidence store the copy lies that the object was read from, if the cluster had it no more."""
    listed: str = ""
    """The list in which that copy stands: it was made before the object was deleted."""
    gap: str = ""
    """Why there is no proof of it in here."""


class Blob(_Part, frozen=True, kw_only=True):
    """Something that a fact names by its digest."""

    url: str
    media_type: str
    sha256: str = ""
    size: int = 0
    of: tuple[str, ...]
    """Uids of the facts that name it, or digest of the blob that does."""
    path: str = ""
    left_out: str = ""
    """Why it was not wanted in here."""
    gap: str = ""
    """Why it could not be had."""


class Asked(_Part, frozen=True, kw_only=True):
    """What was asked for; empty fields ask nothing."""

    names: tuple[str, ...] = ()
    labels: str = ""
    correlation_id: str = msgspec.field(name="correlationID", default="")
    subject: str = ""
    since: str = ""
    until: str = ""
    related: bool = False
    archived: bool = False


class Manifest(_Part, frozen=True, kw_only=True):
    """The list. Everything in the folder but itself and `SHA256SUMS` is in `files`, ordered by path."""

    schema: str
    made_by: str
    made_at: str
    exported_by: str = ""
    """Who asked for it, as they said."""
    cluster_id: str = msgspec.field(name="clusterID", default="")
    cluster_name: str = ""
    asked: Asked = Asked()
    keys: tuple[Key, ...] = ()
    names: tuple[Name, ...] = ()
    trusted_root: str
    custody: str
    facts: tuple[Fact, ...]
    blobs: tuple[Blob, ...] = ()
    files: tuple[File, ...]


class Said(enum.StrEnum):
    """What is wrong with something in a folder; a note is no fault."""

    MISSING = "missing"
    CHANGED = "changed"
    ADDED = "added"
    UNPROVEN = "not proven"
    NOTE = "note"


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that is not as it should be: what it is, and why."""

    said: Said
    what: str
    why: str = ""

    @property
    def faulty(self) -> bool:
        """Whether the folder does not hold because of it."""
        return self.said is not Said.NOTE


def write(manifest: Manifest) -> bytes:
    """Return a manifest as JSON, for people as well."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read(content: bytes) -> Manifest:
    """Parse a manifest strictly; raises `PermanentError` with what does not fit."""
    if len(content) > MAX_MANIFEST:
        raise PermanentError(f"larger than {MAX_MANIFEST} bytes", where=MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        refuse_doubles(content, MANIFEST)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise PermanentError(str(error), where=MANIFEST) from error
    if manifest.schema != SCHEMA:
        raise PermanentError(f"schema {manifest.schema[:80]!r} is not {SCHEMA}", where=MANIFEST)
    if len(manifest.files) > MAX_FILES:
        raise PermanentError(f"more than {MAX_FILES} files", where=MANIFEST)
    paths = [file.path for file in manifest.files]
    if paths != sorted(set(paths)):
        raise PermanentError("its files are not in order, or one stands twice", where=MANIFEST)
    known = set(paths)
    for file in manifest.files:
        if not is_path(file.path) or file.path in (MANIFEST, SUMS):
            raise PermanentError(f"{file.path[:200]!r} is no path of a folder", where=MANIFEST)
        if not _DIGEST.fullmatch(file.sha256) or file.size < 0:
            raise PermanentError(f"{file.path} has no SHA-256 and size", where=MANIFEST)
    for path in _named(manifest):
        if path not in known:
            raise PermanentError(f"names {path[:200]!r}, which is none of its files", where=MANIFEST)
    for fact in manifest.facts:
        if not fact.gap and not (fact.spec and fact.bundles):
            raise PermanentError(f"{fact.kind}/{fact.name} has no files that prove it", where=MANIFEST)
    uids = [fact.uid for fact in manifest.facts]
    if not all(uids) or len(set(uids)) != len(uids):
        raise PermanentError("a fact stands twice, or has no uid", where=MANIFEST)
    return manifest


def is_path(text: str) -> bool:
    """Tell whether this may be the path of a file in a folder: it leads nowhere else, on any system."""
    return _PATH.fullmatch(text) is not None


def sums(manifest: Manifest, content: bytes) -> bytes:
    """Return what `sha256sum -c` reads: every file, and the manifest by its own bytes."""
    lines = {file.path: file.sha256 for file in manifest.files} | {MANIFEST: digest(content)}
    return "".join(f"{lines[path].removeprefix('sha256:')}  {path}\n" for path in sorted(lines)).encode()


class Seen(msgspec.Struct, frozen=True):
    """What lies under a path: its digest and size, or why there is none."""

    sha256: str = ""
    size: int = 0
    odd: str = ""


def scan(folder: Path) -> dict[str, Seen]:
    """Return everything in a folder by path, hashed; nothing is followed out of it.

    Raises `PermanentError` where there is more than a manifest can list.
    """
    seen: dict[str, Seen] = {}
    for path in _walk(folder):
        if len(seen) > MAX_FILES:
            raise PermanentError(f"holds more than {MAX_FILES} files", where=str(folder))
        seen[path.relative_to(folder).as_posix()] = _hashed(path)
    return seen


def compare(manifest: Manifest, content: bytes, seen: Mapping[str, Seen]) -> list[Finding]:
    """Return what in the folder is not as the manifest, whose bytes are `content`, has it."""
    found = []
    for file in manifest.files:
        there = seen.get(file.path)
        if there is None:
            found.append(Finding(Said.MISSING, file.path))
        elif there.odd:
            found.append(Finding(Said.CHANGED, file.path, there.odd))
        elif (there.sha256, there.size) != (file.sha256, file.size):
            found.append(Finding(Said.CHANGED, file.path, f"{_short(there)} instead of {_short(file)}"))
    listed = {file.path for file in manifest.files} | {MANIFEST, SUMS}
    found += [Finding(Said.ADDED, path, there.odd) for path, there in seen.items() if path not in listed]
    wanted = sums(manifest, content)
    there = seen.get(SUMS)
    if there is None:
        found.append(Finding(Said.MISSING, SUMS))
    elif there.sha256 != digest(wanted):
        found.append(Finding(Said.CHANGED, SUMS, f"it and {MANIFEST} are not of one export: one of them was changed"))
    return sorted(found)


def checked(folder: Path, file: File, *, limit: int = MAX_FILE) -> bytes:
    """Return the content of a file; raises `PermanentError` unless it is what the manifest names."""
    if file.size > limit:
        raise PermanentError(f"larger than {limit} bytes", where=file.path)
    content = read_file(folder, file.path, limit)
    if (digest(content), len(content)) != (file.sha256, file.size):
        raise PermanentError("changed", where=file.path)
    return content


def read_file(folder: Path, path: str, limit: int) -> bytes:
    """Return a file; raises `PermanentError` when it is not there, is no regular file, or is larger than allowed."""
    try:
        handle = os.open(folder / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise PermanentError(str(error.strerror).lower(), where=path) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise PermanentError("no regular file", where=path)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise PermanentError(f"larger than {limit} bytes", where=path)
    return content


class Writer:
    """Writes a folder aside and names it when it is whole: a crash leaves nothing that could be taken for one."""

    def __init__(self, folder: Path) -> None:
        """Raises `PermanentError` when something is there already."""
        self._folder = folder
        self._aside = folder.with_name(f".{folder.name[:64]}.{secrets.token_hex(8)}.tmp")
        self._files: dict[str, File] = {}
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise PermanentError(
                "there is something here already",
                where=str(folder),
                fix="name a folder that is new, or empty: what lies in it would be taken for part of the export",
            )

    def __enter__(self) -> Self:
        self._aside.parent.mkdir(parents=True, exist_ok=True)
        self._aside.mkdir(mode=0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)

    @property
    def files(self) -> tuple[File, ...]:
        """What was added, in order."""
        return tuple(self._files[path] for path in sorted(self._files))

    def add(self, path: str, content: bytes) -> str:
        """Add a file and return its path; the same content again changes nothing."""
        if not is_path(path):
            raise PermanentError(f"{path[:200]!r} is no path of a folder", where=str(self._folder))
        file = File(path=path, sha256=digest(content), size=len(content))
        if self._files.setdefault(path, file) != file:
            raise PermanentError("two contents for one file", where=path)
        if not (self._aside / path).exists():
            self._put(path, content)
        return path

    def finish(self, manifest: Manifest) -> str:
        """Add manifest and sums, give the folder its name, and return the manifest's digest."""
        content = write(manifest)
        read(content)
        self._put(MANIFEST, content)
        self._put(SUMS, sums(manifest, content))
        # All at once: what was written first has long been on its way to the disk.
        for directory, _, names in os.walk(self._aside):
            for name in names:
                sync_file(Path(directory) / name)
            sync_directory(Path(directory))
        self._aside.rename(self._folder)
        sync_directory(self._folder.parent)
        return digest(content)

    def _put(self, path: str, content: bytes) -> None:
        place = self._aside / path
        place.parent.mkdir(parents=True, exist_ok=True)
        create_whole(place, content)


def _named(manifest: Manifest) -> Iterator[str]:
    """Yield every path that the manifest builds on."""
    yield manifest.trusted_root
    yield manifest.custody
    yield from (key.path for key in manifest.keys)
    for fact in manifest.facts:
        yield from filter(None, (fact.object, fact.spec, fact.attestation, fact.listed, *fact.bundles))
    yield from (blob.path for blob in manifest.blobs if blob.path)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all that is no directory below a folder."""
    for directory, names, files in os.walk(folder, onerror=_raise):
        for name in sorted((*files, *(name for name in names if (Path(directory) / name).is_symlink()))):
            yield Path(directory) / name


def _raise(error: OSError) -> None:
    raise error


def _hashed(path: Path) -> Seen:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return Seen(odd="a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}")
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Seen(odd="no regular file")
        hashed, size = hashlib.sha256(), 0
        while piece := file.read(_PIECE):
            hashed.update(piece)
            size += len(piece)
    return Seen(f"sha256:{hashed.hexdigest()}", size)


def _short(file: Seen | File) -> str:
    return f"{file.sha256[:19]} ({file.size:,} bytes)"


def shown(findings: Sequence[Finding]) -> list[str]:
    """Return findings as lines, the gravest first."""
    return [
        f"{finding.said.upper():<10} {finding.what}{f': {finding.why}' if finding.why else ''}" for finding in findings
    ]
