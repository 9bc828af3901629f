"""A Rekor v2 in memory: a tree with real signatures, entries answered as the real one was seen to, tiles to be read."""

from collections.abc import Mapping

import msgspec

from ugallu.evidence.encoding import b64
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.logs.remote_tiles import HEIGHT, WIDTH
from ugallu.evidence.rekor import KIND, VERSION
from ugallu.evidence.trusted_root import LogKey
from ugallu.net.ask import Reply
from ugallu.testing.sigstore import log_of, new_key, sign, spki_of

_PREFIX = "/api/v2/"


class FakeRekorV2:
    """A `Peer`; it signs no time."""

    host = "rekor2.test"

    def __init__(self) -> None:
        self.key = new_key()
        self.bodies: list[bytes] = []

    @property
    def log(self) -> LogKey:
        """The log, as a trusted root has it."""
        return log_of(self.key, self.host)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer one call."""
        del headers
        if method == "POST":
            return self._add(body)
        name = path.removeprefix(_PREFIX)
        if name == "checkpoint":
            return Reply(200, {}, self.checkpoint().encode()) if self.bodies else Reply(404, {}, b"")
        return self._tile(name)

    def checkpoint(self) -> str:
        """Return the signed head of all entries."""
        size = len(self.bodies)
        text = f"{self.host}\n{size}\n{b64(merkle.root(self._subtree, size))}\n"
        line = b64(note.log_id(spki_of(self.key))[:4] + sign(self.key, text.encode()))
        return f"{text}\n— {self.host} {line}\n"

    def _add(self, content: bytes) -> Reply:
        asked = msgspec.json.decode(content)["hashedRekordRequestV002"]
        verifier = dict(sorted(asked["signature"]["verifier"].items()))
        made = msgspec.json.encode(
            {
                "apiVersion": VERSION,
                "kind": KIND,
                "spec": {
                    "hashedRekordV002": {
                        "data": {"algorithm": "SHA2_256", "digest": asked["digest"]},
                        "signature": {"content": asked["signature"]["content"], "verifier": verifier},
                    }
                },
            }
        )
        if made in self.bodies:
            return Reply(409, {"x-log-index": str(self.bodies.index(made))}, b'{"code":6,"message":"already exists"}')
        self.bodies.append(made)
        index, size = len(self.bodies) - 1, len(self.bodies)
        written = {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log.log_id)},
            "kindVersion": {"kind": KIND, "version": VERSION},
            "inclusionPromise": None,
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(merkle.root(self._subtree, size)),
                "treeSize": str(size),
                "hashes": [b64(one) for one in merkle.inclusion(self._subtree, index, size)],
                "checkpoint": {"envelope": self.checkpoint()},
            },
            "canonicalizedBody": b64(made),
        }
        return Reply(201, {"content-type": "application/json"}, msgspec.json.encode(written))

    def _tile(self, name: str) -> Reply:
        _, level, *groups = name.split("/")
        if groups[-1].isdecimal() and groups[-2].endswith(".p"):
            width, groups = int(groups[-1]), [*groups[:-2], groups[-2].removesuffix(".p")]
        else:
            width = WIDTH
        first = int("".join(group.removeprefix("x") for group in groups)) * WIDTH
        if level == "entries":
            found = [len(body).to_bytes(2) + body for body in self.bodies[first : first + width]]
        else:
            depth = int(level) * HEIGHT
            there = max(0, min(width, (len(self.bodies) >> depth) - first))
            found = [self._subtree(depth, first + at) for at in range(there)]
        return Reply(200, {}, b"".join(found)) if len(found) == width else Reply(404, {}, b"")

    def _subtree(self, level: int, index: int) -> bytes:
        if not level:
            return merkle.leaf_hash(self.bodies[index])
        return merkle.node_hash(self._subtree(level - 1, 2 * index), self._subtree(level - 1, 2 * index + 1))
