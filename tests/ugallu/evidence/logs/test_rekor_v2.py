"""A Rekor v2 is read as tiles: proofs are made here, duplicates are found again, and a lie leads to no root."""

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import msgspec
import pytest

from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import bundle, trusted_root
from ugallu.evidence.logs import note
from ugallu.evidence.logs.rekor_v2 import RekorV2
from ugallu.evidence.logs.succession import Held
from ugallu.evidence.logs.tiles import TileLog
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, IntegrityError, TransparencyLog
from ugallu.evidence.signers.ed25519 import open_development
from ugallu.evidence.signers.local import open_key
from ugallu.net.ask import Reply
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import Envelopes, LogContract, subject
from ugallu.testing.sigstore import keyed, new_key, spki_of


class FakeTiles:
    """A Rekor v2 whose tiles are those of our embedded log, which has the same layout."""

    host = "log2.test"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = TileLog(folder / "log", open_key(folder / "log.key"), folder / "witness", ManualClock())
        self.known: dict[bytes, int] = {}
        self.waiting: dict[bytes, Envelope] = {}
        self.refuses = 0
        self.forgets: str = ""
        """A file that is said not to be there."""
        self.old_checkpoint = ""

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        del headers
        if self.refuses:
            return Reply(self.refuses, {}, b"")
        if method == "GET":
            return self._file(path.removeprefix("/api/v2/"))
        digest = msgspec.json.decode(body)["hashedRekordRequestV002"]["signature"]["content"].encode()
        if digest in self.known:
            return Reply(409, {"x-log-index": str(self.known[digest])}, b'{"code":6}')
        envelope = self.waiting[digest]
        entry = await self.log.add(envelope)
        self.known[digest] = entry.log_index
        written = msgspec.json.decode(bundle.write(envelope, entry))
        return Reply(201, {}, msgspec.json.encode(written["verificationMaterial"]["tlogEntries"][0]))

    def _file(self, name: str) -> Reply:
        if name == "checkpoint" and self.old_checkpoint:
            return Reply(200, {}, self.old_checkpoint.encode())
        path = self.folder / "log" / name
        if not path.exists() or (self.forgets and self.forgets in name):
            return Reply(404, {}, b"")
        return Reply(200, {}, path.read_bytes())

    def envelope(self, number: int) -> Envelope:
        """Return an envelope that this log will take when its hash comes."""
        made = keyed(STATEMENT_MEDIA_TYPE, subject(number))
        self.waiting[base64.b64encode(made.signature)] = made
        return made


@pytest.fixture
async def tiles(tmp_path: Path) -> AsyncIterator[FakeTiles]:
    made = FakeTiles(tmp_path)
    yield made
    made.log.close()


def opened(tiles: FakeTiles, path: Path | None = None) -> RekorV2:
    (log,) = trusted_root.read(trusted_root.write([tiles.log.trusted_root])).logs.values()
    return RekorV2(tiles, tiles, log, Witness(log, path))


class TestRekorV2(LogContract):
    @pytest.fixture
    def log(self, tiles: FakeTiles) -> TransparencyLog:
        return opened(tiles)

    @pytest.fixture
    def envelope(self, tiles: FakeTiles) -> Envelopes:
        async def made(number: int) -> Envelope:
            return tiles.envelope(number)

        return made


async def test_trees_of_every_size_are_proven_from_tiles(tiles: FakeTiles) -> None:
    """Past full tiles and at their edges: a duplicate is found with its proof, and every old tree is a beginning."""
    log = opened(tiles)
    signed = [tiles.envelope(number) for number in range(530)]
    entries = {}

    async def add(number: int) -> None:
        entries[number] = await log.add(signed[number])

    for start in range(0, 530, 53):
        async with anyio.create_task_group() as tg:
            for number in range(start, start + 53):
                tg.start_soon(add, number)
    for number in (0, 255, 256, 257, 511, 512, 529):
        again = await log.add(signed[number])
        assert (again.index, again.tree_size) == (entries[number].index, 530)
        assert await log.remembers(entries[number].tree_size, entries[number].root_hash)


async def test_the_key_that_the_log_answers_with_counts(tiles: FakeTiles) -> None:
    """Of the keys that it may sign with, for an entry, for a duplicate of one, and for its newest tree."""
    (log,) = trusted_root.read(trusted_root.write([tiles.log.trusted_root])).logs.values()
    spki = spki_of(new_key())
    coming = msgspec.structs.replace(log, spki=spki, log_id=note.log_id(spki))
    prepared = RekorV2(tiles, tiles, coming, Witness(coming), [Held(log, Witness(log))])
    signed = tiles.envelope(1)
    assert (await prepared.add(signed)).log_id == log.log_id
    await prepared.audit()
    again = RekorV2(tiles, tiles, coming, Witness(coming), [Held(log, Witness(log))])
    assert (await again.add(signed)).log_id == log.log_id
    assert trusted_root.id_of(again.trusted_root) == log.log_id
    with pytest.raises(IntegrityError):
        await RekorV2(tiles, tiles, coming, Witness(coming)).audit()


async def test_a_log_put_back_is_noticed(tiles: FakeTiles, tmp_path: Path) -> None:
    """An old checkpoint with its signature is part of what we know; a log that goes on from there is another history."""
    log = opened(tiles, tmp_path / "known.json")
    for number in range(3):
        await log.add(tiles.envelope(number))
    tiles.old_checkpoint = tiles.log.checkpoint
    for number in range(3, 6):
        await log.add(tiles.envelope(number))
    reopened = opened(tiles, tmp_path / "known.json")
    assert not await reopened.remembers(6, bytes(32))
    tiles.old_checkpoint = ""
    (tmp_path / "log" / "checkpoint").unlink()
    with pytest.raises(IntegrityError, match="lost its checkpoint"):
        await reopened.audit()


async def test_a_tile_that_was_changed_leads_to_no_root(tiles: FakeTiles, tmp_path: Path) -> None:
    """A proof from a changed tile does not hold, and the entry is refused."""
    log = opened(tiles)
    signed = [tiles.envelope(number) for number in range(4)]
    for one in signed:
        await log.add(one)
    (tile,) = (tmp_path / "log" / "tile" / "0" / "000.p").glob("4")
    content = bytearray(tile.read_bytes())
    content[0] ^= 1
    tile.write_bytes(content)
    with pytest.raises(IntegrityError, match="does not hold"):
        await log.add(signed[3])


async def test_what_is_not_there_yet_is_tried_again(tiles: FakeTiles) -> None:
    """A tile that is not published, a pushback, a closed shard: outages, not verdicts."""
    log = opened(tiles)
    signed = tiles.envelope(0)
    await log.add(signed)
    tiles.forgets = "tile/"
    with pytest.raises(TransientError, match="not there yet"):
        await log.add(signed)
    tiles.forgets = ""
    for status in (405, 429, 503):
        tiles.refuses = status
        with pytest.raises(TransientError):
            await log.add(tiles.envelope(1))


async def test_ed25519_is_refused_before_anything_is_sent(tiles: FakeTiles, tmp_path: Path) -> None:
    """A Rekor v2 takes no such signatures over envelopes: said here, with what to do."""
    signed = await open_development(tmp_path / "dev.key").sign(STATEMENT_MEDIA_TYPE, subject(1))
    with pytest.raises(PermanentError, match="no Ed25519"):
        await opened(tiles).add(signed)
