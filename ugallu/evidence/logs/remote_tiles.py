"""The tiles of somebody else's log, over HTTP: proofs are computed here, from hashes that lead to a signed root.

Layout: C2SP `tlog-tiles`, as in `tiles.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import anyio

from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.evidence.logs import merkle
from ugallu.evidence.ports import IntegrityError
from ugallu.net.ask import Peer, failed

WIDTH: Final = 256
HEIGHT: Final = 8
HASH: Final = 32

T = TypeVar("T")
Tiles = dict[tuple[int, int], bytes]


class RemoteTiles:
    """Reads tiles below one prefix."""

    def __init__(self, client: Peer, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def checkpoint(self) -> str:
        """Return the newest checkpoint, unchecked; empty when there is none yet."""
        reply = await self._client.ask("GET", f"{self._prefix}/checkpoint")
        if reply.status == 404:
            return ""
        if reply.status != 200:
            raise failed(reply, self._client.host)
        return reply.body.decode("utf-8", "replace")

    async def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the audit path of an entry in the tree of this size."""
        return tuple(await self._compute(lambda subtree: merkle.inclusion(subtree, index, size), size))

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of `new` entries begins with that of `old`."""
        return tuple(await self._compute(lambda subtree: merkle.consistency(subtree, old, new), new))

    async def body(self, index: int, size: int) -> bytes:
        """Return the body of an entry, unchecked."""
        number, place = divmod(index, WIDTH)
        content = await self._tile("entries", number, size)
        at, body = 0, b""
        for _ in range(place + 1):
            length = int.from_bytes(content[at : at + 2])
            body = content[at + 2 : at + 2 + length]
            at += 2 + length
            if at > len(content) or not length:
                raise IntegrityError(f"the bundle of entries {number} is cut short", where=self._client.host)
        return body

    async def _compute(self, proof: Callable[[merkle.Subtree], T], size: int) -> T:
        """Find out which tiles a proof is made of, read them together, then make it."""
        wanted: dict[tuple[int, int], None] = {}

        def note(level: int, index: int) -> bytes:
            tile_level, rest = divmod(level, HEIGHT)
            wanted[tile_level, (index << rest) // WIDTH] = None
            return bytes(HASH)

        proof(note)
        tiles: Tiles = {}
        failures: list[UgalluError] = []

        async def read(level: int, number: int) -> None:
            try:
                tiles[level, number] = await self._tile(str(level), number, size >> HEIGHT * level)
            except UgalluError as error:
                failures.append(error)

        async with anyio.create_task_group() as tg:
            for level, number in wanted:
                tg.start_soon(read, level, number)
        if failures:
            raise failures[0]
        return proof(lambda level, index: self._node(tiles, level, index))

    def _node(self, tiles: Tiles, level: int, index: int) -> bytes:
        tile_level, rest = divmod(level, HEIGHT)
        number, first = divmod(index << rest, WIDTH)
        hashes = tiles[tile_level, number][first * HASH : (first + (1 << rest)) * HASH]
        if len(hashes) != HASH << rest:
            raise IntegrityError(f"tile {tile_level}/{number} is cut short", where=self._client.host)
        return _fold(hashes)

    async def _tile(self, level: str, number: int, count: int) -> bytes:
        """Return a tile of a level that has so many hashes, or entries; a partial one that is gone, as it is now."""
        width = min(WIDTH, count - number * WIDTH)
        if width <= 0:
            raise PermanentError(f"tile {level}/{number} is beyond the tree", where=self._client.host)
        name = _name(number)
        paths = [f"{name}.p/{width}", name] if width < WIDTH else [name]
        for path in paths:
            reply = await self._client.ask("GET", f"{self._prefix}/tile/{level}/{path}")
            if reply.status == 200:
                return reply.body
            if reply.status != 404:
                raise failed(reply, self._client.host)
        raise TransientError(f"tile {level}/{number} is not there yet", where=self._client.host)


def _name(number: int) -> str:
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03d}")
    return "/".join(groups)


def _fold(hashes: bytes) -> bytes:
    """Return the root over 2^n hashes laid end to end."""
    row: Sequence[bytes] = [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]
    for _ in range(int(math.log2(len(row)))):
        row = [merkle.node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
