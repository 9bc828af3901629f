"""A Sigstore in memory: authorities with real keys that issue, stamp and log as asked, or wrongly where a test says so.

Each service is a `Peer`; what it answers is what the real one was seen to answer. The real ones are in `tests/rig`.
"""

import base64
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography import x509 as library
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ugallu.clock import Clock
from ugallu.evidence import der, keys, rekor, sct, timestamp, trusted_root, x509
from ugallu.evidence.dsse import pae
from ugallu.evidence.encoding import b64
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.ports import Envelope, LogEntry, PublicKey
from ugallu.evidence.trusted_root import LogKey
from ugallu.evidence.x509 import Identity
from ugallu.net.ask import Reply
from ugallu.testing.certificates import usage

BEGAN: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
ENDS: Final = dt.datetime(2060, 1, 1, tzinfo=dt.UTC)
WHO: Final = Identity(
    "https://kubernetes.io/namespaces/ugallu-system/serviceaccounts/ugallu-attestor", "https://issuer.test"
)
_DER: Final = serialization.Encoding.DER
_SPKI: Final = serialization.PublicFormat.SubjectPublicKeyInfo
_SCT_LIST: Final = library.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_TSA_POLICY: Final = "1.3.6.1.4.1.57264.2"
_ECDSA_SHA256: Final = "1.2.840.10045.4.3.2"
_SHA256: Final = "2.16.840.1.101.3.4.2.1"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def log_of(key: ec.EllipticCurvePrivateKey, host: str) -> LogKey:
    """Return the log that signs with a key, as a trusted root has it."""
    public = spki_of(key)
    return LogKey(note.log_id(public), host, public, keys.KEY_DETAILS, BEGAN, url=f"https://{host}")


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return its public half, DER."""
    return key.public_key().public_bytes(_DER, _SPKI)


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign SHA-256 of the message."""
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def token(identity: Identity = WHO, *, audience: str = "sigstore", ends: dt.datetime = ENDS) -> str:
    """Return a token of a ServiceAccount, signed by nobody."""
    _, _, rest = identity.name.partition("/namespaces/")
    namespace, _, account = rest.partition("/serviceaccounts/")
    claims = {
        "iss": identity.issuer,
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "aud": [audience],
        "exp": int(ends.timestamp()),
    }
    middle = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=").decode()
    return f"e30.{middle}.c2ln"


class FakeFulcio:
    """A certificate authority with its certificate log; it certifies `identity`, whoever asks."""

    host = "fulcio.test"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.identity = WHO
        self.lifetime = dt.timedelta(minutes=10)
        self.with_sct = True
        self.promises = 1
        """How often the certificate log's promise stands in a certificate."""
        self.detached = False
        self.refuses = 0
        """A status to answer with instead."""
        self.wrong_key = False
        self.calls = 0
        self.authorizations: list[str] = []
        self.root_key, self.ct_key = new_key(), new_key()
        self.root = _authority("fulcio.test", self.root_key)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer a request for a certificate."""
        assert (method, path) == ("POST", "/api/v2/signingCert"), path
        self.calls += 1
        self.authorizations.append((headers or {}).get("Authorization", ""))
        if self.refuses:
            return _json(self.refuses, {"code": 3, "message": "There was an error processing the identity token"})
        request = library.load_pem_x509_csr(base64.b64decode(msgspec.json.decode(body)["certificateSigningRequest"]))
        assert request.is_signature_valid
        public = request.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        leaf = self.issue(new_key().public_key() if self.wrong_key else public)
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, self.root)]
        name = "signedCertificateDetachedSct" if self.detached else "signedCertificateEmbeddedSct"
        return _json(200, {name: {"chain": {"certificates": chain}}})

    def issue(
        self, public: ec.EllipticCurvePublicKey, *, at: dt.datetime | None = None, purposes: Sequence[Any] = ()
    ) -> library.Certificate:
        """Return a certificate that begins at `at`, by default now."""
        begins = (at or self.clock.now()).replace(microsecond=0)
        issuer_text = self.identity.issuer.encode()
        builder = (
            library.CertificateBuilder()
            .subject_name(library.Name([]))
            .issuer_name(self.root.subject)
            .public_key(public)
            .serial_number(library.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + self.lifetime)
            .add_extension(usage(signs=True), critical=True)
            .add_extension(
                library.ExtendedKeyUsage(list(purposes) or [ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                library.SubjectAlternativeName([library.UniformResourceIdentifier(self.identity.name)]), critical=True
            )
            .add_extension(_unknown(x509.ISSUER_RAW, issuer_text), critical=False)
            .add_extension(_unknown(x509.ISSUER, der.write(x509.UTF8, issuer_text)), critical=False)
        )
        if not self.with_sct:
            return builder.sign(self.root_key, hashes.SHA256())
        # The log signs the certificate as it would be without its promise, which is then put in at the end.
        draft = builder.sign(self.root_key, hashes.SHA256())
        promise = self._promise(draft.tbs_certificate_bytes, begins)
        return builder.add_extension(
            library.UnrecognizedExtension(_SCT_LIST, der.write(der.OCTETS, promise)), critical=False
        ).sign(self.root_key, hashes.SHA256())

    @property
    def certificate_log(self) -> LogKey:
        """The certificate log."""
        return log_of(self.ct_key, "ct.test")

    def _promise(self, tbs: bytes, at: dt.datetime) -> bytes:
        milliseconds = int(at.timestamp() * 1000)
        issuer = hashlib.sha256(spki_of(self.root_key)).digest()
        signed = sct.precertificate(milliseconds, issuer, tbs, b"")
        signature = sign(self.ct_key, signed)
        one = b"".join(
            (
                b"\x00",
                self.certificate_log.log_id,
                milliseconds.to_bytes(8),
                b"\x00\x00",
                b"\x04\x03",
                len(signature).to_bytes(2),
                signature,
            )
        )
        listed = (len(one).to_bytes(2) + one) * self.promises
        return len(listed).to_bytes(2) + listed


class FakeAuthority:
    """A timestamp authority."""

    host = "tsa.test"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.skew = dt.timedelta()
        self.other_nonce = False
        self.refuses = 0
        self.root_key, self.key = new_key(), new_key()
        self.root = _authority("tsa.test", self.root_key)
        self.leaf = self._certify([ExtendedKeyUsageOID.TIME_STAMPING], critical=True)

    def certify(self, purposes: Sequence[Any], *, critical: bool) -> None:
        """Go on with a certificate for these purposes."""
        self.leaf = self._certify(purposes, critical=critical)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer a request for a timestamp."""
        assert (method, path, (headers or {})["Content-Type"]) == ("POST", "", timestamp.REQUEST)
        if self.refuses:
            return Reply(self.refuses, {}, b"away")
        version, imprint, nonce, certificates = der.read(body).of(der.SEQUENCE).parts
        assert (version.integer, certificates.content) == (1, b"\xff")
        return Reply(200, {"content-type": timestamp.REPLY}, self.reply(imprint.raw, nonce.integer + self.other_nonce))

    def stamp(self, signature: bytes, *, at: dt.datetime | None = None) -> bytes:
        """Return a reply about a signature."""
        digest = der.write(der.OCTETS, hashlib.sha256(signature).digest())
        return self.reply(der.write(der.SEQUENCE, _algorithm(_SHA256), digest), 1, at=at)

    def reply(self, imprint: bytes, nonce: int, *, at: dt.datetime | None = None) -> bytes:
        """Return a reply about an imprint, signed."""
        time = (at or self.clock.now()) + self.skew
        info = der.write(
            der.SEQUENCE,
            der.write_integer(1),
            der.write_oid(_TSA_POLICY),
            imprint,
            der.write_integer(4711),
            der.write(der.TIME, time.strftime("%Y%m%d%H%M%SZ").encode()),
            der.write_integer(nonce),
        )
        attributes = sorted(
            (
                _attribute("1.2.840.113549.1.9.3", der.write_oid("1.2.840.113549.1.9.16.1.4")),
                _attribute("1.2.840.113549.1.9.4", der.write(der.OCTETS, hashlib.sha256(info).digest())),
                _attribute("1.2.840.113549.1.9.16.2.47", self._signing_certificate()),
            )
        )
        signer = der.write(
            der.SEQUENCE,
            der.write_integer(1),
            der.write(der.SEQUENCE, self.leaf.issuer.public_bytes(), der.write_integer(self.leaf.serial_number)),
            _algorithm(_SHA256),
            der.write(0xA0, *attributes),
            _algorithm(_ECDSA_SHA256),
            der.write(der.OCTETS, sign(self.key, der.write(der.SET, *attributes))),
        )
        signed = der.write(
            der.SEQUENCE,
            der.write_integer(3),
            der.write(der.SET, _algorithm(_SHA256)),
            der.write(
                der.SEQUENCE,
                der.write_oid("1.2.840.113549.1.9.16.1.4"),
                der.write(0xA0, der.write(der.OCTETS, info)),
            ),
            der.write(der.SET, signer),
        )
        token = der.write(der.SEQUENCE, der.write_oid("1.2.840.113549.1.7.2"), der.write(0xA0, signed))
        return der.write(der.SEQUENCE, der.write(der.SEQUENCE, der.write_integer(0)), token)

    def _certify(self, purposes: Sequence[Any], *, critical: bool) -> library.Certificate:
        return (
            library.CertificateBuilder()
            .subject_name(_name("tsa.test leaf"))
            .issuer_name(self.root.subject)
            .public_key(self.key.public_key())
            .serial_number(library.random_serial_number())
            .not_valid_before(BEGAN)
            .not_valid_after(ENDS)
            .add_extension(usage(signs=True), critical=True)
            .add_extension(library.ExtendedKeyUsage(list(purposes)), critical=critical)
            .sign(self.root_key, hashes.SHA256())
        )

    def _signing_certificate(self) -> bytes:
        digest = der.write(der.OCTETS, hashlib.sha256(self.leaf.public_bytes(_DER)).digest())
        return der.write(der.SEQUENCE, der.write(der.SEQUENCE, der.write(der.SEQUENCE, digest)))


class FakeRekor:
    """A Rekor v1: a tree in memory, and answers about it, true unless a test says otherwise."""

    host = "rekor.test"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.key = new_key()
        self.bodies: list[bytes] = []
        self.times: list[int] = []
        self.calls: list[str] = []
        self.refuses = 0
        self.lose_answer = False
        """Take the entry, and break the connection before saying so."""
        self.tree = 1
        """Which tree, of those that its key signs."""
        self.late = 0
        """So many times an entry that is there is said not to be."""

    @property
    def log(self) -> LogKey:
        """The log, as a trusted root has it."""
        return log_of(self.key, self.host)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer one call."""
        del headers
        self.calls.append(f"{method} {path}")
        if self.refuses:
            return Reply(self.refuses, {"retry-after": "7"}, b"away")
        if path.endswith("/retrieve"):
            asked_for = [_body(one) for one in msgspec.json.decode(body)["entries"]]
            return _json(200, [self._entry(self.bodies.index(one)) for one in asked_for if one in self.bodies])
        if method == "POST":
            return self._add(msgspec.json.decode(body))
        if path == "/api/v1/log":
            head = self.checkpoint()
            return _json(
                200, {"treeSize": len(self.bodies), "rootHash": "", "signedTreeHead": head, "treeID": str(self.tree)}
            )
        if path.startswith("/api/v1/log/proof?"):
            asked = dict(part.split("=") for part in path.partition("?")[2].split("&"))
            old, new = int(asked["firstSize"]), int(asked["lastSize"])
            if new > len(self.bodies):
                return _json(400, {"code": 400, "message": "lastSize is larger than the tree"})
            proof = merkle.consistency(self._subtree, old, new)
            return _json(200, {"hashes": [one.hex() for one in proof], "rootHash": ""})
        index = next((at for at in range(len(self.bodies)) if path.endswith(self.uuid(at))), -1)
        if index < 0 or self.late:
            self.late = max(0, self.late - 1)
            return _json(404, {"code": 404, "message": "entry not found"})
        return _json(200, self._entry(index))

    def uuid(self, index: int) -> str:
        """Return an entry's id."""
        return merkle.leaf_hash(self.bodies[index]).hex()

    def checkpoint(self, size: int | None = None) -> str:
        """Return the signed head of the first `size` entries."""
        size = len(self.bodies) if size is None else size
        root = merkle.root(self._subtree, size)
        return _checkpoint(f"{self.host} - {self.tree}", self.host, size, root, self.key)

    def rewrite(self, index: int) -> None:
        """Put something else in the place of an entry, as if it had always been there."""
        self.bodies[index] = self.bodies[index].replace(b"dsse", b"dSSe")

    def shard(self) -> None:
        """Begin another tree under the same key."""
        self.tree += 1
        self.bodies, self.times = [], []

    def _add(self, proposal: dict[str, Any]) -> Reply:
        made = _body(proposal)
        if made in self.bodies:
            path = f"/api/v1/log/entries/{self.uuid(self.bodies.index(made))}"
            return Reply(409, {"location": path}, b'{"code":409,"message":"an equivalent entry already exists"}')
        self.bodies.append(made)
        self.times.append(int(self.clock.now().timestamp()))
        if self.lose_answer:
            return Reply(502, {}, b"")
        return _json(201, self._entry(len(self.bodies) - 1))

    def _entry(self, index: int) -> dict[str, Any]:
        size = len(self.bodies)
        body = self.bodies[index]
        entry = LogEntry(
            log_id=self.log.log_id,
            log_index=index,
            kind="dsse",
            version="0.0.1",
            body=body,
            tree_size=size,
            root_hash=b"",
            hashes=(),
            checkpoint="",
            integrated_time=self.times[index],
        )
        return {
            self.uuid(index): {
                "body": b64(body),
                "integratedTime": self.times[index],
                "logID": self.log.log_id.hex(),
                "logIndex": index,
                "verification": {
                    "signedEntryTimestamp": b64(sign(self.key, rekor.promised(entry))),
                    "inclusionProof": {
                        "checkpoint": self.checkpoint(),
                        "hashes": [one.hex() for one in merkle.inclusion(self._subtree, index, size)],
                        "logIndex": index,
                        "rootHash": merkle.root(self._subtree, size).hex(),
                        "treeSize": size,
                    },
                },
            }
        }

    def _subtree(self, level: int, index: int) -> bytes:
        if not level:
            return merkle.leaf_hash(self.bodies[index])
        return merkle.node_hash(self._subtree(level - 1, 2 * index), self._subtree(level - 1, 2 * index + 1))


def _body(proposal: dict[str, Any]) -> bytes:
    content = proposal["spec"]["proposedContent"]
    envelope = msgspec.json.decode(content["envelope"])
    spec = {
        "envelopeHash": _hash(content["envelope"].encode()),
        "payloadHash": _hash(base64.b64decode(envelope["payload"])),
        "signatures": [
            {"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]},
        ],
    }
    return msgspec.json.encode({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


@dataclass
class FakeSigstore:
    """All of them, and the trusted root that believes them."""

    clock: Clock
    fulcio: FakeFulcio = field(init=False)
    authority: FakeAuthority = field(init=False)
    rekor: FakeRekor = field(init=False)

    def __post_init__(self) -> None:
        self.fulcio = FakeFulcio(self.clock)
        self.authority = FakeAuthority(self.clock)
        self.rekor = FakeRekor(self.clock)

    @property
    def trusted_root(self) -> bytes:
        """The trusted root of all services."""
        return trusted_root.write(
            [trusted_root.element(self.rekor.log)],
            authorities=[chain(self.fulcio.root)],
            certificate_logs=[trusted_root.element(self.fulcio.certificate_log)],
            timestamp_authorities=[chain(self.authority.leaf, self.authority.root)],
        )


def certified(fulcio: FakeFulcio, payload_type: str, payload: bytes, **issue: Any) -> Envelope:  # noqa: ANN401 - of `issue`
    """Return an envelope with a certificate of its own."""
    key = new_key()
    leaf = fulcio.issue(key.public_key(), **issue)
    return Envelope(payload_type, payload, sign(key, pae(payload_type, payload)), certificate=leaf.public_bytes(_DER))


def limited(root: library.Certificate, key: ec.EllipticCurvePrivateKey, host: str) -> library.Certificate:
    """Return an authority's own certificate anew, with a limit, not critical, that excludes names of this host."""
    names = library.NameConstraints(None, [library.UniformResourceIdentifier(host)])
    builder = (
        library.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.issuer)
        .public_key(root.public_key())
        .serial_number(library.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for extension in root.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256())


def keyed(payload_type: str, payload: bytes) -> Envelope:
    """Return an envelope with a key of its own."""
    key = new_key()
    public: PublicKey = keys.from_spki(spki_of(key))
    return Envelope(payload_type, payload, sign(key, pae(payload_type, payload)), key=public)


def _checkpoint(origin: str, name: str, size: int, root: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    body = f"{origin}\n{size}\n{b64(root)}\n"
    line = b64(note.log_id(spki_of(key))[:4] + sign(key, body.encode()))
    return f"{body}\n— {name} {line}\n"


def _authority(name: str, key: ec.EllipticCurvePrivateKey) -> library.Certificate:
    return (
        library.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(library.random_serial_number())
        .not_valid_before(BEGAN)
        .not_valid_after(ENDS)
        .add_extension(library.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(certifies=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _name(common: str) -> library.Name:
    return library.Name([library.NameAttribute(NameOID.COMMON_NAME, common)])


def _unknown(oid: str, content: bytes) -> library.UnrecognizedExtension:
    return library.UnrecognizedExtension(library.ObjectIdentifier(oid), content)


def chain(*certificates: library.Certificate) -> dict[str, Any]:
    """Return an authority of a trusted root with this chain, leaf first."""
    found = [{"rawBytes": b64(one.public_bytes(_DER))} for one in certificates]
    return {
        "subject": {"organization": "test", "commonName": "test"},
        "uri": "https://authority.test",
        "certChain": {"certificates": found},
        "validFor": {"start": BEGAN.isoformat()},
    }


def _algorithm(oid: str) -> bytes:
    return der.write(der.SEQUENCE, der.write_oid(oid))


def _attribute(oid: str, value: bytes) -> bytes:
    return der.write(der.SEQUENCE, der.write_oid(oid), der.write(der.SET, value))


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _json(status: int, value: object) -> Reply:
    return Reply(status, {"content-type": "application/json"}, msgspec.json.encode(value))
