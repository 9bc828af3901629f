"""Rekor v2: envelopes as `hashedrekord` 0.0.2, each answered once a checkpoint covers it; read as tiles.

It signs no time: bundles need a timestamp of an authority beside its entry.
Source of the protocol: github.com/sigstore/rekor-tiles, `api/proto/rekor/v2`.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import bundle, keys, rekor, trusted_root
from ugallu.evidence.encoding import b64
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.logs.remote_tiles import RemoteTiles
from ugallu.evidence.logs.succession import Held, Succession
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import Envelope, IntegrityError, LogEntry
from ugallu.evidence.trusted_root import LogKey
from ugallu.evidence.verify import signed_checkpoint, verify_entry
from ugallu.net.ask import Peer, Reply, failed

_ENTRIES: Final = "/api/v2/log/entries"
READ: Final = "/api/v2"


class RekorV2:
    """A `TransparencyLog` on a Rekor v2.

    `reading` is where its tiles are, often a place of its own; `others` are keys that it may sign with too.
    """

    def __init__(self, client: Peer, reading: Peer, log: LogKey, witness: Witness, others: Sequence[Held] = ()) -> None:
        self._client = client
        self._tiles = RemoteTiles(reading, READ)
        self._keys = Succession(Held(log, witness), others)

    @property
    def trusted_root(self) -> dict[str, object]:
        """The `tlogs[]` element for this log, under the key that it uses now."""
        return trusted_root.element(self._keys.now.log)

    async def add(self, envelope: Envelope) -> LogEntry:
        """Log the envelope; one that is there already is answered with its entry, proven from the tiles."""
        signed = rekor.signed_of(envelope)
        details = keys.details(signed.spki)
        if details == "PKIX_ED25519":
            raise PermanentError(
                "a Rekor v2 takes no Ed25519 signatures over envelopes",
                where=self._client.host,
                fix="sign with ECDSA P-256, or log to a Rekor v1",
            )
        holder = "publicKey" if signed.key is not None else "x509Certificate"
        proposal = {
            "hashedRekordRequestV002": {
                "digest": b64(signed.digest),
                "signature": {
                    "content": b64(signed.signature),
                    "verifier": {holder: {"rawBytes": b64(signed.verifier)}, "keyDetails": details},
                },
            }
        }
        headers = {"Content-Type": "application/json"}
        reply = await self._client.ask("POST", _ENTRIES, msgspec.json.encode(proposal), headers)
        if reply.status == 409:
            entry = await self._logged(reply, envelope)
        elif reply.status in (200, 201):
            entry = bundle.read_entry(reply.body)
        elif reply.status == 405:
            raise TransientError("this shard of the log is closed", where=self._client.host, fix="name the newest one")
        else:
            raise failed(reply, self._client.host)
        held = self._keys.named(entry.log_id)
        try:
            verify_entry(entry, envelope, held.log)
        except PermanentError as error:
            raise IntegrityError(f"the log's answer does not hold: {error}", where=self._client.host) from error
        await self._saw(held, entry.checkpoint)
        return entry

    async def remembers(self, size: int, root: bytes, origin: str = "") -> bool:
        """Tell whether the log's first `size` entries still make this root; it has one tree, of one `origin`."""
        del origin
        head, _ = await self._head()
        if size > head.size:
            return False
        if not size:
            return root == merkle.EMPTY_ROOT
        proof = await self._tiles.consistency(size, head.size) if size < head.size else ()
        return merkle.is_consistent(size, head.size, root, head.root, proof)

    async def audit(self) -> None:
        """Ask for the newest tree and compare it with what is remembered; `IntegrityError` when they differ."""
        await self._head()

    async def _head(self) -> tuple[note.Checkpoint, str]:
        text = await self._tiles.checkpoint()
        if not text:
            if self._keys.now.witness.size:
                raise IntegrityError("the log has lost its checkpoint", where=self._client.host)
            return note.Checkpoint(self._keys.now.log.origin, 0, merkle.EMPTY_ROOT, "", ()), ""
        held = self._keys.signed(text)
        try:
            signed = signed_checkpoint(text, held.log)
        except PermanentError as error:
            raise IntegrityError(f"the log's newest tree: {error}", where=self._client.host) from error
        if signed.origin != held.log.origin:
            raise IntegrityError(f"the log's newest tree is of {signed.origin[:80]!r}", where=self._client.host)
        await self._saw(held, text)
        return signed, text

    async def _saw(self, held: Held, checkpoint: str) -> None:
        await held.witness.saw(checkpoint, self._tiles.consistency)
        self._keys.now = held

    async def _logged(self, reply: Reply, envelope: Envelope) -> LogEntry:
        """Return the entry that a 409 names by its index."""
        text = reply.headers.get("x-log-index", "")
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            raise TransientError("says that the entry exists, but not where", where=self._client.host)
        index = int(text)
        head, checkpoint = await self._head()
        if index >= head.size:
            raise TransientError("the entry is in no signed tree yet", where=self._client.host)
        body = await self._tiles.body(index, head.size)
        if body != rekor.body(envelope):
            raise IntegrityError(f"entry {index} is another one than the log says", where=self._client.host)
        return LogEntry(
            log_id=self._keys.now.log.log_id,
            log_index=index,
            kind=rekor.KIND,
            version=rekor.VERSION,
            body=body,
            tree_size=head.size,
            root_hash=head.root,
            hashes=await self._tiles.inclusion(index, head.size),
            checkpoint=checkpoint,
            uuid=hashlib.sha256(b"\x00" + body).hexdigest(),
        )
