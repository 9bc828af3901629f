"""The directory store: what a crash and an intruder may do to it."""

import contextlib
import errno
import os
from pathlib import Path

import msgspec
import pytest

from ugallu.errors import RefusedError, TransientError
from ugallu.evidence.ports import IntegrityError
from ugallu.evidence.stores import directory
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import DAY


def opened(folder: Path) -> DirectoryStore:
    store = DirectoryStore(folder, ManualClock())
    store.open()
    return store


def abandon(store: DirectoryStore) -> None:
    """Let go of the store as a dead process does: nothing is settled."""
    assert store._ahead is not None
    store._ahead.close()


async def put(store: DirectoryStore, key: str, content: bytes) -> None:
    until = None if key.startswith("staging/") else store._clock.now() + DAY
    await store.put(key, content, media_type="text/plain", until=until)


async def test_acknowledged_content_survives_the_loss_of_its_files(tmp_path: Path) -> None:
    """After one sync everything that was acknowledged comes back, were its own files torn, empty or gone."""
    store = opened(tmp_path)
    for key in ("a/torn", "a/empty", "a/gone", "a/whole", "staging/x"):
        await put(store, key, key.encode() * 100)
    abandon(store)
    (tmp_path / "objects/a/torn").write_bytes(b"a/to")
    (tmp_path / "objects/a/empty").write_bytes(b"")
    (tmp_path / "records/a/empty.json").write_bytes(b"")
    (tmp_path / "objects/a/gone").unlink()
    (tmp_path / "records/a/gone.json").unlink()
    again = opened(tmp_path)
    for key in ("a/torn", "a/empty", "a/gone", "a/whole", "staging/x"):
        assert await again.get(key) == key.encode() * 100
    again.close()


async def test_an_opening_that_fails_leaves_the_store_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever sync fails while the store is opened, the next opening is refused nothing: no lock stays behind."""
    real, left = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for failing in range(1, 20):
        folder, left = tmp_path / str(failing), failing
        try:
            opened(folder).close()
        except TransientError:
            opened(folder).close()
        if left > 0:
            break
    assert failing > 1, "no sync was ever seen"


@pytest.mark.parametrize("cut", [1, 10, 36, 200])
async def test_a_torn_tail_loses_only_what_was_never_acknowledged(tmp_path: Path, cut: int) -> None:
    """The write-ahead file may end anywhere: frames before the cut count, the cut one does not."""
    store = opened(tmp_path)
    await put(store, "staging/a", b"a" * 50)
    await put(store, "staging/b", b"b" * 50)
    abandon(store)
    ahead = tmp_path / "ahead"
    # What lies behind the last frame is there for speed.
    os.truncate(ahead, len(ahead.read_bytes().rstrip(b"\0")) - min(cut, 60))
    again = opened(tmp_path)
    assert await again.get("staging/a") == b"a" * 50
    assert await again.stat("staging/b") is None
    await put(again, "staging/b", b"c")
    again.close()
    third = opened(tmp_path)
    assert await third.get("staging/b") == b"c"
    third.close()


async def test_staging_survives_settling(tmp_path: Path) -> None:
    """Settling writes files out and begins the write-ahead file anew; what is staged is carried over."""
    store = opened(tmp_path)
    await put(store, "staging/a", b"a")
    await put(store, "b", b"b")
    store.close()
    again = opened(tmp_path)
    assert await again.get("staging/a") == b"a"
    assert await again.get("b") == b"b"
    await again.drop("staging/a")
    again.close()
    third = opened(tmp_path)
    assert await third.stat("staging/a") is None
    third.close()


async def test_changed_evidence_is_noticed_on_reading(tmp_path: Path) -> None:
    """Content, record, or either one missing: reading is an integrity error, never silence."""
    store = opened(tmp_path)
    for key in ("a", "b", "c", "d"):
        await put(store, key, b"content")
    store.close()
    (tmp_path / "objects/a").write_bytes(b"Content")
    (tmp_path / "objects/b").unlink()
    (tmp_path / "records/c.json").unlink()
    (tmp_path / "records/d.json").write_bytes(b"{")
    again = opened(tmp_path)
    for key in ("a", "b", "c", "d"):
        with pytest.raises(IntegrityError):
            await again.get(key)
    with pytest.raises(IntegrityError):
        await put(again, "c", b"other")
    again.close()


async def test_one_process_writes_others_read(tmp_path: Path) -> None:
    """A second writer is refused, a reader is not."""
    store = opened(tmp_path)
    await put(store, "a", b"x")
    other = DirectoryStore(tmp_path, ManualClock())
    assert await other.get("a") == b"x"
    with pytest.raises(RefusedError, match="another process"):
        await put(other, "b", b"x")
    store.close()
    await put(other, "b", b"x")
    other.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
async def test_a_full_disk_is_reported_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """ENOSPC or a failed sync: the put fails with a word, nothing is half there, and later it works."""
    store = opened(tmp_path)
    await put(store, "a", b"x")

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, refuse)
        with pytest.raises(TransientError, match=r"No space left.*free some space"):
            await put(store, "b", b"y")
    assert await store.stat("b") is None
    await put(store, "b", b"y")
    assert await store.get("b") == b"y"
    abandon(store)
    again = opened(tmp_path)
    assert (await again.get("a"), await again.get("b")) == (b"x", b"y")
    again.close()


async def test_a_disk_that_fills_up_inside_a_file_costs_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes the first half of a write without a word: the put fails, leaves nothing, and works later."""
    store = opened(tmp_path)
    real = os.write
    for room in range(0, 300, 20):
        left = room

        def write(handle: int, content: bytes) -> int:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            written = real(handle, content[:left])
            left -= written
            return written

        with monkeypatch.context() as broken:
            broken.setattr(os, "write", write)
            with pytest.raises(TransientError, match="No space left"):
                await put(store, f"a/{room}", b"y" * 280)
        await put(store, f"a/{room}", b"y" * 280)
        assert await store.get(f"a/{room}") == b"y" * 280
    store.close()
    again = opened(tmp_path)
    for room in range(0, 300, 20):
        assert await again.get(f"a/{room}") == b"y" * 280
    again.close()


async def test_what_a_failed_append_left_stays_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames reach the file but not the disk; the next, as long as the first of them, does not revive the second."""
    store = opened(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", _refuse)
        assert store._ahead is not None
        frames = [msgspec.msgpack.encode(("staging/a", b"1", ("x", 1, "t", None)))] * 2
        with pytest.raises(OSError, match="Input"):
            store._ahead.append(frames)
    store._ahead.append([frames[0]])
    assert len(list(store._ahead.read())) == 1
    abandon(store)


def _refuse(*_: object) -> None:
    raise OSError(5, "Input/output error")


def _name_of(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


@pytest.mark.parametrize("count", range(1, 40, 3))
async def test_a_power_cut_takes_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Every file that was never synced comes back empty, and no put ever syncs more than a few."""
    monkeypatch.setattr(directory, "SETTLE_BYTES", 2000)
    monkeypatch.setattr(directory, "TOGETHER", 3)
    synced = _note_syncs(monkeypatch)
    store = opened(tmp_path)
    await put(store, "staging/x", b"x")
    for number in range(count):
        before = len(synced)
        await put(store, f"a/{number}", b"%d" % number * 100)
        assert len(synced) - before <= 8
    abandon(store)
    _cut_power(tmp_path, synced)
    again = opened(tmp_path)
    for number in range(count):
        assert await again.get(f"a/{number}") == b"%d" % number * 100
    assert await again.get("staging/x") == b"x"
    again.close()
    assert _names(tmp_path) == ["ahead", "ahead.lock", "objects", "records"]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _note_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the inode of every file synced from here on."""
    synced: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


def _cut_power(root: Path, synced: list[int]) -> None:
    """Take the content of every file that was never synced."""
    for path in (*root.glob("objects/a/*"), *root.glob("records/a/*")):
        if path.stat().st_ino not in synced:
            os.truncate(path, 0)


@pytest.mark.parametrize("broken", ["link", "replace", "fsync", "fdatasync", "unlink"])
async def test_a_disk_that_fails_while_the_write_ahead_file_turns_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whatever step of it fails, what was acknowledged before and after survives the process."""
    monkeypatch.setattr(directory, "SETTLE_BYTES", 1000)
    synced = _note_syncs(monkeypatch)
    store = opened(tmp_path)
    acknowledged = []
    for number in range(60):
        with monkeypatch.context() as patch, contextlib.suppress(TransientError):
            if number % 3:
                patch.setattr(os, broken, _refuse)
            await put(store, f"a/{number}", b"%d" % number * 100)
            acknowledged.append(number)
    abandon(store)
    _cut_power(tmp_path, synced)
    again = opened(tmp_path)
    for number in acknowledged:
        assert await again.get(f"a/{number}") == b"%d" % number * 100
    again.close()
    assert len(acknowledged) >= 20


async def test_recovered_files_are_synced_before_the_write_ahead_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process left its files to the kernel: whole to look at, and yet not on the disk."""
    store = opened(tmp_path)
    await put(store, "a", b"content")
    abandon(store)
    synced = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.add(_name_of(handle))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    opened(tmp_path).close()
    assert {tmp_path / "objects/a", tmp_path / "records/a.json", tmp_path / "objects"} <= synced


async def test_after_a_failed_sync_files_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel could not write it calls clean and may drop: a second sync that succeeds proves nothing."""
    store = opened(tmp_path)
    await put(store, "a", b"content")
    real = os.fsync

    def fsync(handle: int) -> None:
        if _name_of(handle) == tmp_path / "objects/a":
            _refuse()
        real(handle)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        assert store._ahead is not None
        with pytest.raises(OSError, match="Input"):
            store._settle(store._ahead)
    (tmp_path / "objects/a").write_bytes(b"")
    store.close()
    again = opened(tmp_path)
    assert await again.get("a") == b"content"
    again.close()


async def test_a_reader_sees_what_a_dead_writer_acknowledged(tmp_path: Path) -> None:
    """Files that a power cut tore or took are no tampering while the write-ahead file has them."""
    store = opened(tmp_path)
    for key in ("torn", "gone", "no-record"):
        await put(store, key, key.encode() * 100)
    abandon(store)
    (tmp_path / "objects/torn").write_bytes(b"")
    (tmp_path / "objects/gone").unlink()
    (tmp_path / "records/gone.json").unlink()
    (tmp_path / "records/no-record.json").write_bytes(b"{")
    reader = DirectoryStore(tmp_path, ManualClock())
    for key in ("torn", "gone", "no-record"):
        assert await reader.get(key) == key.encode() * 100
        found = await reader.stat(key)
        assert found is not None
        assert found.size == len(key) * 100
    assert await reader.stat("never") is None
    opened(tmp_path).close()
    (tmp_path / "objects/torn").write_bytes(b"")
    with pytest.raises(IntegrityError):
        await reader.get("torn")


async def test_a_later_date_and_a_hold_survive_recovery(tmp_path: Path) -> None:
    """An extended retention is not put back to the first one when the content must be written again; a hold stays."""
    store = opened(tmp_path)
    await put(store, "a", b"content")
    until = store._clock.now() + 2 * DAY
    await store.put("a", b"content", media_type="text/plain", until=until)
    await store.hold("a", on=True)
    abandon(store)
    (tmp_path / "objects/a").write_bytes(b"")
    again = opened(tmp_path)
    found = await again.stat("a")
    assert found is not None
    assert (found.until, found.held) == (until, True)
    assert await again.get("a") == b"content"
    again.close()
