"""The embedded transparency log: an append-only Merkle tree in a directory, laid out so that other tools can read it.

Layout (C2SP `tlog-tiles`): `checkpoint`, `tile/<L>/<N>` with 256 hashes each, `tile/entries/<N>` with 256 bodies,
partial ones as `<N>.p/<W>`. Beside it `log.json` keeps when the log began.

What a crash leaves: bodies and hashes are durable before the checkpoint that covers them, so the checkpoint never
promises what is not there; bodies that no checkpoint covers yet are taken in when the log is opened again. What an
intruder leaves: opening recomputes the whole tree from its leaves and compares it with the signed checkpoint and with
the witness, a note of the last size and root that lies with the key, outside the log.
"""

import contextlib
import datetime as dt
import fcntl
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence import rekor
from ugallu.evidence.encoding import b64
from ugallu.evidence.files import Aside, create_whole, make_directory, sync_directory, sync_files, write_durably
from ugallu.evidence.keys import KEY_DETAILS, verifies
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.ports import Envelope, IntegrityError, LogEntry
from ugallu.evidence.signers.local import KeyFile

WIDTH: Final = 256
HEIGHT: Final = 8
HASH: Final = 32
MAX_BODY: Final = 0xFFFF
"""An entry's length is written in two bytes."""
CACHED_TILES: Final = 64
CACHED_NODES: Final = 1 << 14
"""Hashes of inner nodes: what two full tiles hold at every level, many times over."""

_WIDTH_NAME: Final = re.compile(r"[1-9][0-9]{0,2}")


class _Beginning(msgspec.Struct, frozen=True):
    origin: str
    start: dt.datetime


class _Head(msgspec.Struct, frozen=True):
    """A size, its root and the text that signed it; `text` is empty for the empty log and in the witness."""

    size: int
    root: bytes
    text: str = ""


class _Waiting:
    """A body on its way into the log, and its entry once it is there."""

    __slots__ = ("body", "entry")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.entry: LogEntry | None = None


class TileLog:
    """A `TransparencyLog` in a directory; one process at a time. Concurrent adds share one checkpoint."""

    def __init__(self, root: Path, key: KeyFile, witness: Path, clock: Clock) -> None:
        """Open the log, or begin it; `witness` is a file outside `root`.

        Raises `RefusedError` when another process has it open, `IntegrityError` when its files are not as they were
        left, `TransientError` when the disk refuses.
        """
        self._root = root
        self._key = key
        self._witness = witness
        self._id = note.log_id(key.public.spki)
        self._turn = anyio.Lock()
        self._waiting: dict[bytes, _Waiting] = {}
        self._head = _Head(0, merkle.EMPTY_ROOT)
        self._index: dict[bytes, int] = {}
        self._bundle = bytearray()
        self._edges: list[bytearray] = []
        self._tiles: OrderedDict[Path, bytes] = OrderedDict()
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._latest: set[Path] = set()
        self._outdated: set[Path] = set()
        self._trusted = False
        try:
            make_directory(root)
            self._lock = _lock(root)
            try:
                self._began = self._beginning(clock)
                self._load()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise TransientError(str(error.strerror), where=str(root), fix="check the disk") from error

    @property
    def origin(self) -> str:
        """The name in the log's checkpoints."""
        return self._began.origin

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._head.size

    @property
    def checkpoint(self) -> str:
        """The newest signed checkpoint, empty while the log is."""
        return self._head.text

    @property
    def trusted_root(self) -> dict[str, object]:
        """The `tlogs[]` element for this log."""
        return {
            "baseUrl": f"https://{self.origin}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": b64(self._key.public.spki),
                "keyDetails": KEY_DETAILS,
                "validFor": {"start": self._began.start.strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
            "logId": {"keyId": b64(self._id)},
        }

    async def add(self, envelope: Envelope) -> LogEntry:
        """Log the envelope; see `TransparencyLog`."""
        body = rekor.body(envelope)
        if len(body) > MAX_BODY:
            raise PermanentError(f"an entry of {len(body)} bytes; {MAX_BODY} is the most", where=str(self._root))
        waiting = self._waiting.setdefault(merkle.leaf_hash(body), _Waiting(body))
        async with self._turn:
            if waiting.entry is None:
                batch, self._waiting = self._waiting, {}
                try:
                    entries = await to_thread.run_sync(self._settle, {leaf: each.body for leaf, each in batch.items()})
                except OSError as error:
                    # Whoever else is in the batch tries again at its own turn.
                    self._waiting = batch | self._waiting
                    raise TransientError(str(error.strerror), where=str(self._root), fix="check the disk") from error
                except BaseException:
                    self._waiting = batch | self._waiting
                    raise
                for leaf, each in batch.items():
                    each.entry = entries[leaf]
            assert waiting.entry is not None
            return waiting.entry

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of `new` entries begins with the tree of `old`."""
        async with self._turn:
            if not 0 <= old <= new <= self.size:
                raise PermanentError(f"no trees of {old} and {new} entries", where=str(self._root))
            return tuple(await to_thread.run_sync(merkle.consistency, self._subtree, old, new))

    async def remembers(self, size: int, root: bytes, origin: str = "") -> bool:
        """Tell whether the first `size` entries still make this root; there is one tree, whatever its `origin`."""
        del origin
        async with self._turn:
            return size <= self.size and await to_thread.run_sync(merkle.root, self._subtree, size) == root

    async def audit(self) -> None:
        """Read every body and compare it with its leaf; `IntegrityError` when one differs."""
        async with self._turn:
            await to_thread.run_sync(self._audit)

    def close(self) -> None:
        """Let another process have the log."""
        os.close(self._lock)

    # From here on: with the turn, in a worker thread.

    def _settle(self, bodies: Mapping[bytes, bytes]) -> dict[bytes, LogEntry]:
        if not self._trusted:
            # The last write failed half-way; only the disk knows how far it came.
            self._load()
        self._check_head()
        fresh = {leaf: body for leaf, body in bodies.items() if leaf not in self._index}
        if fresh:
            self._append(fresh)
        return {leaf: self._entry(self._index[leaf], body) for leaf, body in bodies.items()}

    def _append(self, bodies: Mapping[bytes, bytes]) -> None:
        """Write bodies and tiles, then the checkpoint, then believe it."""
        self._trusted = False
        size = self._head.size
        bundle = bytearray(self._bundle)
        edges = [bytearray(edge) for edge in self._edges]
        files: dict[Path, bytes] = {}
        for position, (leaf, body) in enumerate(bodies.items(), start=size):
            bundle += len(body).to_bytes(2) + body
            if position % WIDTH == WIDTH - 1:
                files[self._path("entries", position // WIDTH)] = bytes(bundle)
                bundle.clear()
            self._raise(edges, leaf, position, files)
        size += len(bodies)
        partial = self._partials(size, bundle, edges)
        files |= partial
        for path, content in files.items():
            _write_new(path, content)
        root = merkle.root(lambda level, index: self._node(size, edges, level, index), size)
        text = note.write(self.origin, size, root, self._id, self._key.sign)
        with contextlib.ExitStack() as aside:
            checkpoint = Aside(self._root / "checkpoint", text.encode())
            aside.callback(checkpoint.discard)
            witness = Aside(self._witness, msgspec.json.encode(_Head(size, root)))
            aside.callback(witness.discard)
            # One commit of the file system for all that is new, and one more for the name of the checkpoint.
            sync_files([*files, *dict.fromkeys(path.parent for path in files), checkpoint.place, witness.place])
            checkpoint.replace()
            sync_directory(self._root)
            # After the checkpoint: a witness that lags still holds, one that runs ahead would accuse us falsely.
            witness.replace()

        for position, leaf in enumerate(bodies, start=self._head.size):
            self._index[leaf] = position
        self._head, self._bundle, self._edges = _Head(size, root, text), bundle, edges
        self._sweep(partial)
        self._trusted = True

    def _raise(self, edges: list[bytearray], leaf: bytes, position: int, files: dict[Path, bytes]) -> None:
        """Add a leaf to the edge of the tree; a tile that fills up is written and hands its root to the level above."""
        level, value = 0, leaf
        while True:
            if level == len(edges):
                edges.append(bytearray())
            edges[level] += value
            if len(edges[level]) < WIDTH * HASH:
                return
            tile = bytes(edges[level])
            edges[level].clear()
            files[self._path(str(level), position // WIDTH ** (level + 1))] = tile
            level, value = level + 1, _fold(tile)

    def _partials(self, size: int, bundle: bytearray, edges: list[bytearray]) -> dict[Path, bytes]:
        """Return the files of the unfinished right edge."""
        files: dict[Path, bytes] = {}
        if bundle:
            files[self._path("entries", size // WIDTH, size % WIDTH)] = bytes(bundle)
        for level, edge in enumerate(edges):
            if edge:
                count = size // WIDTH**level
                files[self._path(str(level), count // WIDTH, count % WIDTH)] = bytes(edge)
        return files

    def _sweep(self, current: Mapping[Path, bytes]) -> None:
        """Remove partial tiles that nobody needs: a reader may still hold the checkpoint before this one, not more."""
        for path in self._outdated - current.keys():
            path.unlink(missing_ok=True)
        self._outdated, self._latest = self._latest - current.keys(), set(current)

    def _entry(self, index: int, body: bytes) -> LogEntry:
        return LogEntry(
            log_id=self._id,
            log_index=index,
            kind=rekor.KIND,
            version=rekor.VERSION,
            body=body,
            tree_size=self._head.size,
            root_hash=self._head.root,
            hashes=tuple(merkle.inclusion(self._subtree, index, self._head.size)),
            checkpoint=self._head.text,
            uuid=merkle.leaf_hash(body).hex(),
        )

    def _subtree(self, level: int, index: int) -> bytes:
        return self._node(self._head.size, self._edges, level, index)

    def _node(self, size: int, edges: Sequence[bytearray], level: int, index: int) -> bytes:
        """Return the hash over leaves [index << level, (index + 1) << level), all of which are there.

        It never changes, and neighbours ask for the same ones: kept for a while.
        """
        known = self._nodes.get((level, index))
        if known is not None:
            return known
        tile_level, rest = divmod(level, HEIGHT)
        number, first = divmod(index << rest, WIDTH)
        is_full = number < (size >> HEIGHT * tile_level) // WIDTH
        tile = self._full_tile(tile_level, number) if is_full else edges[tile_level]
        if not rest:
            return bytes(tile[first * HASH : (first + 1) * HASH])
        if len(self._nodes) >= CACHED_NODES:
            self._nodes.clear()
        below = 2 * index
        node = merkle.node_hash(
            self._node(size, edges, level - 1, below), self._node(size, edges, level - 1, below + 1)
        )
        self._nodes[level, index] = node
        return node

    def _full_tile(self, level: int, number: int) -> bytes:
        path = self._path(str(level), number)
        cached = self._tiles.get(path)
        if cached is None:
            cached = path.read_bytes()
            if len(cached) != WIDTH * HASH:
                raise IntegrityError(f"tile {level}/{number} is cut short", where=str(self._root))
            self._tiles[path] = cached
            if len(self._tiles) > CACHED_TILES:
                self._tiles.popitem(last=False)
        return cached

    def _check_head(self) -> None:
        try:
            text = (self._root / "checkpoint").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        if text != self._head.text:
            raise IntegrityError("the checkpoint was changed from outside", where=str(self._root), fix=_ASK)

    def _load(self) -> None:
        """Read everything from disk, prove that it belongs together, and take in what a crash left behind."""
        self._tiles, self._index, self._edges, self._bundle = OrderedDict(), {}, [], bytearray()
        self._nodes.clear()
        self._latest, self._outdated = set(), set()
        self._head = self._read_head()
        self._read_tree()
        self._read_bundle()
        self._check_witness()
        self._remove_strays(keep_bodies=True)
        for bodies in filter(None, self._left_behind()):
            self._append(bodies)
        self._remove_strays(keep_bodies=False)
        self._trusted = True

    def _read_head(self) -> _Head:
        try:
            text = (self._root / "checkpoint").read_text(encoding="utf-8")
            read = note.read(text)
        except FileNotFoundError:
            return _Head(0, merkle.EMPTY_ROOT)
        except (PermanentError, UnicodeDecodeError) as error:
            raise IntegrityError(f"the checkpoint cannot be read: {error}", where=str(self._root), fix=_ASK) from error
        signed = any(
            line.name == self.origin
            and line.key_hint == self._id[:4]
            and verifies(self._key.public.spki, line.signature, read.body.encode())
            for line in read.signatures
        )
        if read.origin != self.origin or not signed:
            raise IntegrityError("the checkpoint is not signed by this log's key", where=str(self._root), fix=_ASK)
        return _Head(read.size, read.root, text)

    def _read_tree(self) -> None:
        """Rebuild every level from the leaves; each tile on disk must be what its children make of it."""
        size = self._head.size
        values = b""
        level = 0
        while (count := size >> (HEIGHT * level)) > 0:
            above = bytearray()
            edge = bytearray()
            for number in range(-(-count // WIDTH)):
                width = min(WIDTH, count - number * WIDTH)
                path = self._path(str(level), number, width % WIDTH)
                try:
                    tile = path.read_bytes()
                except FileNotFoundError:
                    raise IntegrityError(f"tile {level}/{number} is gone", where=str(self._root), fix=_ASK) from None
                expected = values[number * WIDTH * HASH : (number + 1) * WIDTH * HASH] if level else tile
                if len(tile) != width * HASH or tile != expected:
                    raise IntegrityError(f"tile {level}/{number} was changed", where=str(self._root), fix=_ASK)
                if level == 0:
                    for at in range(width):
                        self._index[tile[at * HASH : (at + 1) * HASH]] = number * WIDTH + at
                if width == WIDTH:
                    above += _fold(tile)
                else:
                    edge += tile
                    self._latest.add(path)
            self._edges.append(edge)
            values = bytes(above)
            level += 1
        if len(self._index) != size or merkle.root(self._subtree, size) != self._head.root:
            raise IntegrityError("the leaves do not make the signed root", where=str(self._root), fix=_ASK)

    def _read_bundle(self) -> None:
        width = self._head.size % WIDTH
        if not width:
            return
        path = self._path("entries", self._head.size // WIDTH, width)
        bodies = self._bodies(path)
        if bodies is None or not self._are_leaves(bodies, self._head.size - width, width):
            raise IntegrityError("the newest entries were changed", where=str(self._root), fix=_ASK)
        self._bundle += path.read_bytes()
        self._latest.add(path)

    def _check_witness(self) -> None:
        try:
            seen = msgspec.json.decode(self._witness.read_bytes(), type=_Head)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            raise IntegrityError("the log's witness cannot be read", where=str(self._witness), fix=_ASK) from error
        if seen.size > self._head.size:
            raise IntegrityError(
                f"the log had {seen.size} entries and now has {self._head.size}", where=str(self._root), fix=_ASK
            )
        if merkle.root(self._subtree, seen.size) != seen.root:
            raise IntegrityError("the log's history was rewritten", where=str(self._root), fix=_ASK)

    def _left_behind(self) -> list[dict[bytes, bytes]]:
        """Return bodies that were written before a crash and that no checkpoint covers yet, bundle by bundle."""
        found: list[dict[bytes, bytes]] = []
        size = self._head.size
        while True:
            number, known = divmod(size, WIDTH)
            bodies = self._longest(number, known)
            if bodies is None:
                return found
            fresh = {merkle.leaf_hash(body): body for body in bodies[known:]}
            found.append({leaf: body for leaf, body in fresh.items() if leaf not in self._index})
            size += len(found[-1])
            if size % WIDTH or not found[-1]:
                return found

    def _longest(self, number: int, known: int) -> list[bytes] | None:
        """Return the bodies of the widest readable bundle `number` that continues what is known of it."""
        paths = [self._path("entries", number)]
        partial = self._path("entries", number, 1).parent
        if partial.is_dir():
            widths = sorted((int(p.name) for p in partial.iterdir() if _WIDTH_NAME.fullmatch(p.name)), reverse=True)
            paths += [partial / str(width) for width in widths]
        for path in paths:
            bodies = self._bodies(path)
            if bodies is None or not known < len(bodies) <= WIDTH:
                continue
            if known == 0 or self._are_leaves(bodies[:known], number * WIDTH, known):
                return bodies
        return None

    def _bodies(self, path: Path) -> list[bytes] | None:
        """Return the bodies in a bundle, None when there is no such file or it is cut or garbled."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        bodies: list[bytes] = []
        at = 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 2])
            body = content[at + 2 : at + 2 + length]
            # A file cut by a power failure may hold zeros: no body of ours is empty, or has one.
            if not length or len(body) != length or not body.startswith(b'{"apiVersion":') or 0 in body:
                return None
            bodies.append(body)
            at += 2 + length
        return bodies

    def _are_leaves(self, bodies: Sequence[bytes], first: int, count: int) -> bool:
        return len(bodies) == count and all(
            self._index.get(merkle.leaf_hash(body)) == position for position, body in enumerate(bodies, start=first)
        )

    def _audit(self) -> None:
        for number in range(-(-self._head.size // WIDTH)):
            width = min(WIDTH, self._head.size - number * WIDTH)
            bodies = self._bodies(self._path("entries", number, width % WIDTH))
            if bodies is None or not self._are_leaves(bodies, number * WIDTH, width):
                raise IntegrityError(f"entries {number} were changed or are gone", where=str(self._root), fix=_ASK)

    def _remove_strays(self, *, keep_bodies: bool) -> None:
        """Remove half-written files and partial tiles of other sizes; bodies only once they were taken in."""
        for path in self._witness.parent.glob(f".{self._witness.name}.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self._root.rglob("*"):
            name, parent = path.name, path.parent
            stray = name.endswith(".tmp")
            if parent.suffix == ".p" and path not in self._latest:
                stray = stray or not (keep_bodies and "entries" in parent.parts)
            if stray and path.is_file():
                path.unlink(missing_ok=True)

    def _beginning(self, clock: Clock) -> _Beginning:
        path = self._root / "log.json"
        origin = f"log-{self._id.hex()[:16]}.ugallu.local"
        try:
            began = msgspec.json.decode(path.read_bytes(), type=_Beginning)
        except FileNotFoundError:
            if (self._root / "checkpoint").exists():
                raise IntegrityError("log.json is gone", where=str(self._root), fix=_ASK) from None
            began = _Beginning(origin, clock.now().replace(microsecond=0))
            write_durably(path, msgspec.json.encode(began))
            sync_directory(self._root)
        except msgspec.DecodeError as error:
            raise IntegrityError("log.json cannot be read", where=str(self._root), fix=_ASK) from error
        if began.origin != origin:
            raise IntegrityError("the log belongs to another key", where=str(self._root), fix="restore its key")
        return began

    def _path(self, level: str, number: int, width: int = 0) -> Path:
        """Return where a tile lies; `width` 0 means full."""
        groups = [f"{number % 1000:03d}"]
        while number := number // 1000:
            groups.insert(0, f"x{number % 1000:03d}")
        name = "/".join(groups)
        return self._root / "tile" / level / (f"{name}.p/{width}" if width else name)


_ASK: Final = "keep the files as they are and find out who changed them"


def _fold(hashes: bytes | bytearray) -> bytes:
    """Return the root over 2^n hashes laid end to end."""
    row = [bytes(hashes[at : at + HASH]) for at in range(0, len(hashes), HASH)]
    while len(row) > 1:
        row = [merkle.node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def _write_new(path: Path, content: bytes) -> None:
    """Write what no checkpoint covers yet, not durable; what a crash left under its name is replaced as one step."""
    make_directory(path.parent)
    try:
        create_whole(path, content)
    except FileExistsError:
        write_durably(path, content)


def _lock(root: Path) -> int:
    handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if not isinstance(error, BlockingIOError):
            raise
        raise RefusedError("another process has this log open", where=str(root), fix="stop it first") from error
    return handle
