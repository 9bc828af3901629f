"""The embedded log: what others can read of it, what a crash may leave, what an intruder may try."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import RefusedError, TransientError
from ugallu.evidence.logs import merkle, note, tiles
from ugallu.evidence.logs.tiles import TileLog
from ugallu.evidence.ports import Envelope, IntegrityError, LogEntry, PublicKey
from ugallu.evidence.signers.local import open_key
from ugallu.testing.clock import ManualClock
from ugallu.testing.evidence import open_evidence, sign


class Crash(BaseException):
    """The process is gone."""


def opened(folder: Path) -> TileLog:
    return TileLog(folder / "log", open_key(folder / "keys/log.key"), folder / "keys/log.witness", ManualClock())


def envelope(number: int) -> Envelope:
    return Envelope("application/vnd.in-toto+json", b"%d" % number, b"sig%d" % number, key=PublicKey(b"x", "p256:0"))


async def grown(folder: Path, size: int) -> None:
    """Make a log of this size in few batches; entry and envelope have the same number."""
    log = opened(folder)
    async with anyio.create_task_group() as tg:
        for number in range(size):
            tg.start_soon(log.add, envelope(number))
    for number in range(size):
        assert (await log.add(envelope(number))).log_index == number
    log.close()


# Trees: against the definition in RFC 6962, written down plainly.


def plain_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + plain_root(leaves[:split]) + plain_root(leaves[split:])).digest()


@settings(max_examples=150)
@given(
    st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size), st.integers(0, size - 1)))
)
def test_proofs_are_those_of_rfc_6962(case: tuple[int, int, int]) -> None:
    """Roots equal the definition; inclusion and consistency proofs hold, and none holds for anything else."""
    size, old, index = case
    leaves = [merkle.leaf_hash(b"%d" % number) for number in range(size)]

    def subtree(level: int, at: int) -> bytes:
        return plain_root(leaves[at << level : (at + 1) << level])

    root, old_root = plain_root(leaves), plain_root(leaves[:old])
    assert merkle.root(subtree, size) == root
    path = merkle.inclusion(subtree, index, size)
    assert merkle.root_of_inclusion(leaves[index], index, size, path) == root
    assert merkle.root_of_inclusion(leaves[index], index, size, [*path, root]) != root
    assert not path or merkle.root_of_inclusion(leaves[index], index, size, path[:-1]) != root
    proof = merkle.consistency(subtree, old, size)
    assert merkle.is_consistent(old, size, old_root, root, proof)
    assert not merkle.is_consistent(old, size, root if old < size else b"", root, proof)
    for at in range(len(proof)):
        forged = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert not merkle.is_consistent(old, size, old_root, root, forged)


async def test_other_tools_can_read_the_tiles(tmp_path: Path) -> None:
    """From the files alone, by the published layout, the checkpoint's root and every body can be had."""
    await grown(tmp_path, 300)
    log = tmp_path / "log"
    signed = note.read((log / "checkpoint").read_text())
    assert signed.size == 300
    leaves = (log / "tile/0/000").read_bytes() + (log / "tile/0/001.p/44").read_bytes()
    hashes = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert plain_root(hashes) == signed.root
    assert (log / "tile/1/000.p/1").read_bytes() == plain_root(hashes[:256])
    bundles = (log / "tile/entries/000").read_bytes() + (log / "tile/entries/001.p/44").read_bytes()
    bodies = []
    while bundles:
        length = int.from_bytes(bundles[:2])
        bodies.append(bundles[2 : 2 + length])
        bundles = bundles[2 + length :]
    assert [merkle.leaf_hash(body) for body in bodies] == hashes


async def test_checkpoints_are_consistent_over_time(tmp_path: Path) -> None:
    """Each checkpoint the log ever signed is a beginning of each later one, and the log proves it."""
    log = opened(tmp_path)
    entries = [await log.add(envelope(number)) for number in range(9)]
    for old in entries:
        for new in entries[old.log_index :]:
            proof = await log.consistency(old.tree_size, new.tree_size)
            assert merkle.is_consistent(old.tree_size, new.tree_size, old.root_hash, new.root_hash, proof)
    log.close()


async def test_a_reopened_log_knows_its_entries(tmp_path: Path) -> None:
    """The same envelope after a restart has its old index, and the tree does not grow."""
    await grown(tmp_path, 260)
    log = opened(tmp_path)
    for number in (0, 255, 256, 259):
        assert (await log.add(envelope(number))).log_index == number
    assert log.size == 260
    await log.audit()
    log.close()


@pytest.mark.parametrize(("size", "power"), [(0, True), (3, True), (255, True), (511, True), (3, False), (255, False)])
async def test_a_crash_between_any_two_effects_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, power: bool
) -> None:
    """Killed before any write, sync or rename of an add: the log opens, holds all it acknowledged, and goes on.

    Where the power goes, half of what was not synced is zeros.
    """
    await grown(tmp_path / "before", size)
    step = 0
    while True:
        folder = tmp_path / f"at{step}"
        shutil.copytree(tmp_path / "before", folder)
        log = opened(folder)
        with monkeypatch.context() as broken:
            safe = _safe(broken, folder)
            dying = _dying(broken, step)
            with contextlib.suppress(Crash):
                await log.add(envelope(size))
        log.close()
        if not power:
            _cut(folder, safe)
        again = opened(folder)
        assert again.size in (size, size + 1)
        entry = await again.add(envelope(size))
        assert (entry.log_index, again.size) == (size, size + 1)
        assert (await again.add(envelope(size + 1))).log_index == size + 1
        await again.audit()
        again.close()
        assert not list(folder.rglob("*.tmp"))
        if not dying():
            assert step > 5
            return
        step += 1


def _safe(patch: pytest.MonkeyPatch, folder: Path) -> set[int]:
    """Return a set to which every file of the folder belongs that is on the disk, by its inode."""
    safe = {path.stat().st_ino for path in folder.rglob("*")}
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        safe.add(os.fstat(handle).st_ino)

    patch.setattr(os, "fsync", fsync)
    return safe


def _cut(folder: Path, safe: set[int]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino not in safe:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def _dying(patch: pytest.MonkeyPatch, after: int) -> Callable[[], bool]:
    """Die at the effect with this number; the function returned tells whether that came about."""
    left = after
    dead = False

    def mortal(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            nonlocal left, dead
            if left == 0 or dead:
                dead = True
                raise Crash
            left -= 1
            return real(*args, **options)

        patch.setattr(os, name, call)

    for name in ("write", "fsync", "replace", "rename"):
        mortal(name)
    return lambda: dead


async def test_a_full_disk_is_reported_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle of an add is transient; the next add works and nothing is logged twice."""
    log = opened(tmp_path)
    await log.add(envelope(0))
    real = os.write
    for allowed in range(4):
        left = allowed

        def write(handle: int, content: bytes) -> int:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            left -= 1
            return real(handle, content)

        with monkeypatch.context() as broken:
            broken.setattr(os, "write", write)
            with pytest.raises(TransientError, match="No space left"):
                await log.add(envelope(1 + allowed))
        await log.add(envelope(1 + allowed))
    assert log.size == 5
    await log.audit()
    log.close()


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm",
    [
        lambda log: flip(log / "tile/0/000", 40),
        lambda log: flip(log / "tile/0/001.p/4"),
        lambda log: flip(log / "tile/1/000.p/1"),
        lambda log: flip(log / "tile/entries/001.p/4"),
        lambda log: flip(log / "checkpoint", 60),
        lambda log: flip(log / "checkpoint", 5),
        lambda log: (log / "checkpoint").write_text(""),
        lambda log: (log / "checkpoint").unlink(),
        lambda log: (log / "tile/0/000").unlink(),
        lambda log: (log / "log.json").unlink(),
        shutil.rmtree,
    ],
)
async def test_tampering_is_noticed_on_opening(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """A changed, cut or missing file of the log stops it, with a word about what."""
    await grown(tmp_path, 260)
    harm(tmp_path / "log")
    with pytest.raises(IntegrityError):
        opened(tmp_path)


async def test_a_changed_old_body_is_noticed_by_the_audit(tmp_path: Path) -> None:
    """Bodies of full tiles are not read on opening; the audit reads them all."""
    await grown(tmp_path, 260)
    flip(tmp_path / "log/tile/entries/000", 100)
    log = opened(tmp_path)
    with pytest.raises(IntegrityError, match="entries 0"):
        await log.audit()
    log.close()


async def test_an_older_copy_of_the_log_is_noticed(tmp_path: Path) -> None:
    """Putting back yesterday's files, whole and signed, is a rollback: the witness remembers more."""
    await grown(tmp_path, 3)
    shutil.copytree(tmp_path / "log", tmp_path / "yesterday")
    log = opened(tmp_path)
    await log.add(envelope(3))
    log.close()
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "yesterday", tmp_path / "log")
    with pytest.raises(IntegrityError, match="had 4 entries and now has 3"):
        opened(tmp_path)


async def test_a_checkpoint_changed_while_running_is_noticed(tmp_path: Path) -> None:
    """Before the log signs a new checkpoint it looks whether the last one is still its own."""
    log = opened(tmp_path)
    await log.add(envelope(0))
    flip(tmp_path / "log/checkpoint", 60)
    with pytest.raises(IntegrityError, match="changed from outside"):
        await log.add(envelope(1))
    log.close()


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second process is refused while the first has the log open."""
    log = opened(tmp_path)
    with pytest.raises(RefusedError, match="another process"):
        opened(tmp_path)
    log.close()
    opened(tmp_path).close()


async def test_adds_that_come_together_share_a_checkpoint(tmp_path: Path) -> None:
    """Fifty concurrent adds cost far fewer than fifty checkpoints."""
    evidence = open_evidence(tmp_path)
    signed = [await sign(evidence, b"%d" % number) for number in range(50)]
    entries: list[LogEntry] = []

    async def add(each: Envelope) -> None:
        entries.append(await evidence.log.add(each))

    async with anyio.create_task_group() as tg:
        for each in signed:
            tg.start_soon(add, each)
    evidence.close()
    assert len({entry.log_index for entry in entries}) == 50
    assert len({entry.checkpoint for entry in entries}) <= 3
    assert tiles.WIDTH == 256
