"""What we remember of somebody else's log: the newest tree that it signed. Every other one must be a part of it.

A log may have several trees under one key, shards that follow each other, each named by its origin: each has its own
past.

A log that shows us one history and others another must sign two trees that do not grow from each other; whoever keeps
one of them and asks for the proof notices. What is kept survives a restart, and lies with us, not with the log.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from ugallu.errors import PermanentError, TransientError
from ugallu.evidence.files import make_directory, sync_directory, write_durably
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.ports import IntegrityError
from ugallu.evidence.trusted_root import LogKey
from ugallu.evidence.verify import signed_checkpoint

Prove = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""(old size, new size) to the log's proof that the one tree grew from the other."""
KNOWN: Final = 1024
SHARDS: Final = 64
"""Trees of one log that are remembered; the one that was begun first is forgotten first."""

_ASK: Final = "keep both checkpoints and ask who runs the log; they are in the state directory and in this bundle"


class _Kept(msgspec.Struct, frozen=True):
    """The newest checkpoint of the newest tree, as it was signed, and those of the trees before it."""

    checkpoint: str
    others: tuple[str, ...] = ()


class Witness:
    """Remembers one log, in a file or only as long as the process lives."""

    def __init__(self, log: LogKey, path: Path | None = None) -> None:
        """Take up what the file says; raises `IntegrityError` when the log never signed that."""
        self._log = log
        self._path = path
        self._turn = anyio.Lock()
        self._heads: dict[str, tuple[note.Checkpoint, str]] = {}
        """The newest head of each tree and its text, by origin."""
        self._seen: dict[tuple[str, int], bytes] = {}
        if path is not None and path.exists():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
                for text in (*kept.others, kept.checkpoint):
                    head = signed_checkpoint(text, log)
                    self._heads[head.origin] = head, text
            except (msgspec.DecodeError, PermanentError, OSError) as error:
                raise IntegrityError("what was remembered of the log cannot be read", where=str(path)) from error

    @property
    def size(self) -> int:
        """The size of the newest tree, 0 before the first."""
        return next((head.size for head, _ in reversed(self._heads.values())), 0)

    async def saw(self, text: str, prove: Prove) -> None:
        """Compare a signed checkpoint with what is remembered, and remember it if it is newer.

        Raises `IntegrityError` when they do not belong to one history, and what `prove` raises.
        """
        seen = signed_checkpoint(text, self._log)
        async with self._turn:
            head = self._heads.get(seen.origin)
            if head is None:
                await self._keep(seen, text)
                return
            if self._seen.get((seen.origin, seen.size)) == seen.root:
                return
            old, new = sorted((head[0], seen), key=lambda one: one.size)
            proof = await prove(old.size, new.size) if 0 < old.size < new.size else ()
            if not merkle.is_consistent(old.size, new.size, old.root, new.root, proof):
                raise IntegrityError(
                    f"the log's tree of {new.size} entries did not grow from the one of {old.size} that it signed",
                    where=seen.origin,
                    fix=_ASK,
                )
            if seen is new:
                await self._keep(seen, text)
            self._note(seen)

    async def _keep(self, seen: note.Checkpoint, text: str) -> None:
        heads = {**self._heads, seen.origin: (seen, text)}
        heads = dict(list(heads.items())[-SHARDS:])
        if self._path is not None:
            *others, newest = (kept for _, kept in heads.values())
            try:
                await to_thread.run_sync(_write, self._path, msgspec.json.encode(_Kept(newest, tuple(others))))
            except OSError as error:
                raise TransientError(str(error.strerror), where=str(self._path), fix="check the disk") from error
        self._heads = heads
        self._note(seen)

    def _note(self, seen: note.Checkpoint) -> None:
        if len(self._seen) >= KNOWN:
            self._seen.clear()
        self._seen[seen.origin, seen.size] = seen.root


def _write(path: Path, content: bytes) -> None:
    make_directory(path.parent)
    write_durably(path, content)
    sync_directory(path.parent)
