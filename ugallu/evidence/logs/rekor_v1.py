"""Rekor v1: envelopes as `dsse` 0.0.1, each answered with a promise, a proof and a checkpoint.

Source of the protocol: github.com/sigstore/rekor, `openapi.yaml`.
"""

import binascii
import re
from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import rekor, trusted_root
from ugallu.evidence.bundle import MAX_BODY, MAX_HASHES, envelope_json
from ugallu.evidence.encoding import b64, unb64
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.logs.succession import Held, Succession
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import Envelope, IntegrityError, LogEntry
from ugallu.evidence.trusted_root import LogKey
from ugallu.evidence.verify import signed_checkpoint, verify_entry
from ugallu.net.ask import Peer, Reply, failed
from ugallu.pace import Backoff

T = TypeVar("T")

_ENTRIES: Final = "/api/v1/log/entries"
_JSON: Final = {"Content-Type": "application/json"}
_LOOKS: Final = 6
_UUID: Final = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{16})?")


class _Proof(msgspec.Struct, frozen=True, rename="camel"):
    checkpoint: str
    hashes: tuple[str, ...]
    log_index: int
    root_hash: str
    tree_size: int


class _Verification(msgspec.Struct, frozen=True, rename="camel"):
    signed_entry_timestamp: str
    inclusion_proof: _Proof | None = None


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str


class _Entry(msgspec.Struct, frozen=True):
    body: str
    integrated_time: int = msgspec.field(name="integratedTime")
    log_id: str = msgspec.field(name="logID")
    log_index: int = msgspec.field(name="logIndex")
    verification: _Verification | None = None


class _Info(msgspec.Struct, frozen=True):
    signed_tree_head: str = msgspec.field(name="signedTreeHead")


class _Consistency(msgspec.Struct, frozen=True):
    hashes: tuple[str, ...] = ()


class RekorV1:
    """A `TransparencyLog` on a Rekor v1; `others` are keys that it may sign with too."""

    def __init__(self, client: Peer, log: LogKey, witness: Witness, clock: Clock, others: Sequence[Held] = ()) -> None:
        self._client = client
        self._clock = clock
        self._keys = Succession(Held(log, witness), others)

    @property
    def trusted_root(self) -> dict[str, object]:
        """The `tlogs[]` element for this log, under the key that it uses now."""
        return trusted_root.element(self._keys.now.log)

    async def add(self, envelope: Envelope) -> LogEntry:
        """Log the envelope; one that is there already is answered with its entry."""
        reply = await self._client.ask("POST", _ENTRIES, msgspec.json.encode(_proposal(envelope)), _JSON)
        if reply.status == 409:
            reply = await self._logged(_uuid(reply, self._client.host))
        if reply.status not in (200, 201):
            raise failed(reply, self._client.host)
        entry = self._read(reply)
        held = self._keys.named(entry.log_id)
        try:
            verify_entry(entry, envelope, held.log)
        except PermanentError as error:
            raise IntegrityError(f"the log's answer does not hold: {error}", where=self._client.host) from error
        await self._saw(held, entry.checkpoint, note.read(entry.checkpoint).origin)
        return entry

    async def has(self, envelope: Envelope) -> bool:
        """Tell whether the envelope was logged before; nothing is added. A log that answers no such questions: no."""
        body = msgspec.json.encode({"entries": [_proposal(envelope)]})
        reply = await self._client.ask("POST", f"{_ENTRIES}/retrieve", body, _JSON)
        if reply.status in (404, 405, 422, 501):
            return False
        if reply.status != 200:
            raise failed(reply, self._client.host)
        return bool(self._decode(reply, list[dict[str, msgspec.Raw]]))

    async def remembers(self, size: int, root: bytes, origin: str = "") -> bool:
        """Tell whether the log's first `size` entries still make this root; a closed shard is another tree."""
        head = await self._head()
        if origin not in ("", head.origin):
            return True
        if size > head.size:
            return False
        if not size:
            return root == merkle.EMPTY_ROOT
        proof = await self._prove(head.origin, size, head.size) if size < head.size else ()
        return merkle.is_consistent(size, head.size, root, head.root, proof)

    async def audit(self) -> None:
        """Ask for the newest tree and compare it with what is remembered; `IntegrityError` when they differ."""
        await self._head()

    async def _logged(self, uuid: str) -> Reply:
        """Ask for an entry that is said to be there; it may have been taken a moment ago, and be in no tree yet."""
        delays = Backoff(first=0.05, ceiling=1.0)
        for _ in range(_LOOKS):
            reply = await self._client.ask("GET", f"{_ENTRIES}/{uuid}")
            if reply.status != 404:
                return reply
            await self._clock.sleep(delays.next())
        raise TransientError("the entry is in no tree yet", where=self._client.host)

    async def _head(self) -> note.Checkpoint:
        reply = await self._client.ask("GET", "/api/v1/log")
        if reply.status != 200:
            raise failed(reply, self._client.host)
        info = self._decode(reply, _Info)
        held = self._keys.signed(info.signed_tree_head)
        try:
            signed = signed_checkpoint(info.signed_tree_head, held.log)
        except PermanentError as error:
            raise IntegrityError(f"the log's newest tree: {error}", where=self._client.host) from error
        if signed.origin.rpartition(" - ")[0] != held.log.origin:
            raise IntegrityError(f"the log's newest tree is of {signed.origin[:80]!r}", where=self._client.host)
        await self._saw(held, info.signed_tree_head, signed.origin)
        return signed

    async def _saw(self, held: Held, checkpoint: str, origin: str) -> None:
        await held.witness.saw(checkpoint, lambda old, new: self._prove(origin, old, new))
        self._keys.now = held

    async def _prove(self, origin: str, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof for one tree of the log, which its origin names: a log is sharded by beginning another."""
        tree = origin.rpartition(" - ")[2]
        asked = f"firstSize={old}&lastSize={new}" + (f"&treeID={tree}" if tree.isascii() and tree.isdigit() else "")
        reply = await self._client.ask("GET", f"/api/v1/log/proof?{asked}")
        if reply.status == 400:
            raise IntegrityError(
                f"the log does not know its trees of {old} and {new} entries: {reply.said}", where=self._client.host
            )
        if reply.status != 200:
            raise failed(reply, self._client.host)
        found = self._decode(reply, _Consistency)
        if len(found.hashes) > 2 * MAX_HASHES:
            raise PermanentError("a proof of too many hashes", where=self._client.host)
        return tuple(self._hex(text) for text in found.hashes)

    def _read(self, reply: Reply) -> LogEntry:
        found = self._decode(reply, dict[str, _Entry])
        if len(found) != 1:
            raise IntegrityError(f"{len(found)} entries instead of one", where=self._client.host)
        ((uuid, raw),) = found.items()
        if raw.verification is None or raw.verification.inclusion_proof is None:
            raise TransientError("the entry has no proof yet", where=self._client.host)
        proof = raw.verification.inclusion_proof
        if len(proof.hashes) > MAX_HASHES:
            raise PermanentError(f"more than {MAX_HASHES} proof hashes", where=self._client.host)
        where = f"{self._client.host}: log entry"
        body = unb64(raw.body, where, limit=MAX_BODY)
        try:
            kind = msgspec.json.decode(body, type=_Kind)
        except msgspec.DecodeError as error:
            raise IntegrityError("the entry cannot be read", where=where) from error
        return LogEntry(
            log_id=self._hex(raw.log_id),
            log_index=proof.log_index,
            kind=kind.kind,
            version=kind.api_version,
            body=body,
            tree_size=proof.tree_size,
            root_hash=self._hex(proof.root_hash),
            hashes=tuple(self._hex(text) for text in proof.hashes),
            checkpoint=proof.checkpoint,
            integrated_time=raw.integrated_time,
            promise=unb64(raw.verification.signed_entry_timestamp, where, limit=1024),
            uuid=uuid[:80],
            global_index=raw.log_index if raw.log_index != proof.log_index else -1,
        )

    def _decode(self, reply: Reply, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(reply.body, type=shape)
        except (ValueError, RecursionError) as error:
            raise TransientError(f"an answer that cannot be read: {error}", where=self._client.host) from error

    def _hex(self, text: str) -> bytes:
        try:
            raw = binascii.unhexlify(text)
        except ValueError as error:
            raise IntegrityError("a hash that is no hex", where=self._client.host) from error
        if len(raw) != 32:
            raise IntegrityError("a hash of another size", where=self._client.host)
        return raw


def _proposal(envelope: Envelope) -> dict[str, object]:
    return {
        "kind": rekor.DSSE,
        "apiVersion": rekor.V1,
        "spec": {
            "proposedContent": {
                "envelope": msgspec.json.encode(envelope_json(envelope)).decode(),
                "verifiers": [b64(rekor.pem(rekor.signed_of(envelope)))],
            }
        },
    }


def _uuid(reply: Reply, where: str) -> str:
    """Return the entry that a 409 points to: its id, and nothing else of what the server says."""
    found = urlsplit(reply.headers.get("location", "")).path.rpartition("/")[2]
    if not _UUID.fullmatch(found):
        raise TransientError("says that the entry exists, but not where", where=where)
    return found
