"""Lists of the copies that are kept of objects which a cluster has no more: what they say, and whether it fits. Pure.

Each list names copies by key and digest, the Merkle root over them (RFC 6962), and the list before.
"""

from typing import Final

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence.canonical import canonical
from ugallu.evidence.encoding import refuse_doubles
from ugallu.evidence.logs import merkle

MEDIA_TYPE: Final = "application/vnd.ugallu.archive.manifest+json"
SCHEMA: Final = "ugallu.io/archive-manifest/v1"
MAX_BYTES: Final = 16 << 20


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One copy."""

    key: str
    sha256: str
    kind: str
    name: str
    uid: str


class Link(msgspec.Struct, frozen=True, rename="camel"):
    """An earlier manifest."""

    key: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One link of the chain; stored as canonical JSON."""

    schema: str
    cluster_id: str = msgspec.field(name="clusterID")
    number: int
    created_at: str
    root: str
    """Merkle root over the canonical JSON of the entries, hex."""
    entries: tuple[Entry, ...]
    previous: Link | None = None


def root_of(entries: tuple[Entry, ...]) -> str:
    """Return the Merkle root over entries, hex."""
    level = [merkle.leaf_hash(canonical(entry)) for entry in entries]
    while len(level) > 1:
        pairs = [merkle.node_hash(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0].hex() if level else merkle.EMPTY_ROOT.hex()


def read(content: bytes, where: str) -> Manifest:
    """Parse a list; raises `PermanentError` for what is none, or for one whose root is not that of its entries."""
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where=where)
    refuse_doubles(content, where)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"cannot be read: {error}", where=where) from error
    if manifest.schema != SCHEMA:
        raise PermanentError(f"schema {manifest.schema[:80]!r} is not {SCHEMA}", where=where)
    if root_of(manifest.entries) != manifest.root:
        raise PermanentError("its root is not that of its entries", where=where)
    return manifest
