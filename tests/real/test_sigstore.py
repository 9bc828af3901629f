"""Bundles of every mode and log, made by our signers on real services, before four verifiers: three stock ones and ours.

Each good bundle is accepted by all of them, offline. Each bad one that any of the three refuses is refused by ours.
"""

import base64
import concurrent.futures
import copy
import datetime as dt
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.real.test_sigstore_logs import key_of
from tests.rig.evidence import keys as rig_keys
from tests.rig.evidence.stack import Sigstore
from tests.rig.evidence.verifiers import Verifier, sigstore_js, sigstore_python
from ugallu.clock import SystemClock
from ugallu.evidence import bundle, statement, trusted_root
from ugallu.evidence import keys as public_keys
from ugallu.evidence.authority import TimestampService
from ugallu.evidence.dsse import pae
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.rekor_v2 import RekorV2
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, PublicKey, Signer, TransparencyLog
from ugallu.evidence.signers.ed25519 import open_development
from ugallu.evidence.signers.fulcio import FulcioSigner
from ugallu.evidence.signers.local import LocalSigner, open_key
from ugallu.evidence.signers.openbao import Login, Session, TransitSigner
from ugallu.evidence.signers.token import TokenFile
from ugallu.evidence.verify import verify
from ugallu.evidence.x509 import Identity
from ugallu.net.client import HttpClient, Limits
from ugallu.testing.openbao import FakeOpenBao
from ugallu.testing.sigstore import FakeFulcio, FakeSigstore, certified, limited

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]
SPEC = b'{"severity":"high","type":"ExecIntoPod"}'
TYPE = statement.EVENT_PREDICATE


@dataclass(frozen=True)
class Case:
    """A bundle, and whom a reader expects behind it."""

    content: bytes
    key: PublicKey | None = None
    identity: Identity | None = None
    root: bytes = b""
    spec: bytes = SPEC


@dataclass
class Made:
    """All bundles of a run, by `<mode>-<log>`; `root` is trusted."""

    root: bytes
    good: dict[str, Case] = field(default_factory=dict)
    bad: dict[str, Case] = field(default_factory=dict)


def payload() -> bytes:
    """Return another statement about the same bytes each time: no log takes two of one."""
    number = next(_NUMBERS)
    return statement.build([statement.subject_of("SecurityEvent/se-1@v1alpha1", SPEC)], TYPE, {"number": number})


_NUMBERS = iter(range(1 << 20))


async def make(sigstore: Sigstore, folder: Path) -> Made:
    """Sign, stamp and log with everything there is, all at once: a Rekor v2 answers once a second."""
    made = Made(sigstore.trusted_root)
    clock = SystemClock()
    root = trusted_root.read(made.root)
    (folder / "token").write_text(sigstore.issuer.token())
    token = TokenFile(folder / "token")
    limits = Limits(at_once=64)
    async with (
        HttpClient(sigstore.fulcio) as fulcio,
        HttpClient(sigstore.rekor1, limits=limits) as rekor1,
        HttpClient(sigstore.rekor2, limits=limits) as rekor2,
        HttpClient(sigstore.rekor2_tiles) as tiles,
        HttpClient(sigstore.timestamps) as stamps,
        anyio.create_task_group() as tg,
    ):
        one, two = key_of(sigstore, sigstore.rekor1), key_of(sigstore, sigstore.rekor2)
        logs: dict[str, TransparencyLog] = {
            "v1": RekorV1(rekor1, one, Witness(one), clock),
            "v2": RekorV2(rekor2, tiles, two, Witness(two)),
        }
        authority = TimestampService(stamps, root.timestamp_authorities, clock)
        signers: dict[str, Signer] = {
            "fulcio": FulcioSigner(fulcio, token, root, clock, issuer=sigstore.issuer.url),
            "local": LocalSigner(open_key(folder / "keys" / "attestor.key")),
            "ed25519-dev": open_development(folder / "keys" / "dev.key"),
        }
        for key_type in ("ecdsa-p256", "ed25519", "rsa-2048"):
            bao = FakeOpenBao(clock, key_type=key_type)
            bao.accepted = sigstore.issuer.token()
            (folder / f"token-{key_type}").write_text(bao.accepted)
            login = Login("auth/kubernetes", "attestor", TokenFile(folder / f"token-{key_type}"))
            session = Session(bao, login, clock)
            kept = folder / "keys" / f"{key_type}.json"
            signers[f"transit-{key_type}"] = TransitSigner(
                bao, session, clock, mount="transit", key="ugallu", key_type=key_type, kept=kept
            )

        async def add(
            name: str, envelope: Envelope, log: TransparencyLog, into: dict[str, Case], *, stamped: bool
        ) -> None:
            timestamps = [await authority.stamp(envelope.signature)] if stamped else []
            content = bundle.write(envelope, await log.add(envelope), timestamps)
            who = Identity(sigstore.issuer.identity, sigstore.issuer.url) if envelope.certificate else None
            into[name] = Case(content, envelope.key, who, made.root)

        for name, signer in signers.items():
            for log_name, log in logs.items():
                if "ed25519" in name and log_name == "v2":
                    continue
                envelope = await signer.sign(STATEMENT_MEDIA_TYPE, payload())
                tg.start_soon(lambda *args: add(*args, stamped=True), f"{name}-{log_name}", envelope, log, made.good)
        envelope = await signers["fulcio"].sign(STATEMENT_MEDIA_TYPE, payload())
        tg.start_soon(lambda *args: add(*args, stamped=False), "fulcio-v1-unstamped", envelope, logs["v1"], made.good)
        envelope = await signers["local"].sign(STATEMENT_MEDIA_TYPE, payload())
        tg.start_soon(lambda *args: add(*args, stamped=False), "local-v2-unstamped", envelope, logs["v2"], made.good)
        ours = authority_of(sigstore)
        for name, log in logs.items():
            ended = certified(ours, STATEMENT_MEDIA_TYPE, payload(), at=clock.now() - dt.timedelta(hours=1))
            tg.start_soon(lambda *args: add(*args, stamped=True), f"expired certificate, {name}", ended, log, made.bad)
            ours.with_sct = False
            plain = certified(ours, STATEMENT_MEDIA_TYPE, payload())
            ours.with_sct = True
            ours.promises = 2
            double = certified(ours, STATEMENT_MEDIA_TYPE, payload())
            ours.promises = 1
            tg.start_soon(lambda *args: add(*args, stamped=True), f"two SCTs, {name}", double, log, made.bad)
            tg.start_soon(lambda *args: add(*args, stamped=True), f"missing SCT, {name}", plain, log, made.bad)
        other = for_another_key(ours)
        tg.start_soon(lambda *args: add(*args, stamped=True), "P-384 certificate, v1", other, logs["v1"], made.bad)
    narrow = json.loads(made.root)
    less = limited(ours.root, ours.root_key, "kubernetes.io").public_bytes(serialization.Encoding.DER)
    [authority] = narrow["certificateAuthorities"]
    authority["certChain"]["certificates"][-1]["rawBytes"] = base64.b64encode(less).decode()
    for name in ("fulcio-v1", "fulcio-v2"):
        made.bad[f"excluded name, {name}"] = replace(made.good[name], root=json.dumps(narrow).encode())
    return made


def for_another_key(fulcio: FakeFulcio) -> Envelope:
    """Return an envelope whose certificate is for a P-384 key."""
    key, content = ec.generate_private_key(ec.SECP384R1()), payload()
    signature = key.sign(pae(STATEMENT_MEDIA_TYPE, content), ec.ECDSA(hashes.SHA256()))  # the one hash of a Rekor v1
    leaf = fulcio.issue(key.public_key()).public_bytes(serialization.Encoding.DER)
    return Envelope(STATEMENT_MEDIA_TYPE, content, signature, certificate=leaf)


def authority_of(sigstore: Sigstore) -> FakeFulcio:
    """Return a certificate authority with the real one's keys, which issues what the real one would not."""
    forger = FakeFulcio(SystemClock())
    key = serialization.load_pem_private_key(sigstore.keys.fulcio_key.read_bytes(), rig_keys.PASSWORD.encode())
    ct_key = serialization.load_pem_private_key(sigstore.keys.ct_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(ct_key, ec.EllipticCurvePrivateKey)
    forger.root_key, forger.ct_key = key, ct_key
    forger.root = x509.load_pem_x509_certificate(sigstore.keys.fulcio_pem.read_bytes())
    forger.identity = Identity(sigstore.issuer.identity, sigstore.issuer.url)
    return forger


@pytest.fixture(scope="module")
def made(sigstore: Sigstore, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return anyio.run(make, sigstore, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def python() -> Iterator[Verifier]:
    with sigstore_python() as verifier:
        yield verifier


@pytest.fixture(scope="module")
def js() -> Iterator[Verifier]:
    with sigstore_js() as verifier:
        yield verifier


@dataclass
class Judges:
    """The three stock verifiers, and the folder where they find what they ask for."""

    cosign: Cosign
    python: Verifier
    js: Verifier
    folder: Path

    def refusals(self, name: str, case: Case) -> dict[str, str]:
        """Return who refuses the case and why; a verifier that does not read such bundles is not asked."""
        folder = self.folder / name.replace(" ", "-").replace(",", "").replace("/", "-")
        folder.mkdir()
        (folder / "b.sigstore.json").write_bytes(case.content)
        (folder / "root.json").write_bytes(case.root)
        (folder / "x.spec.json").write_bytes(case.spec)
        arguments = ["--bundle", "b.sigstore.json", "--trusted-root", "root.json", "--type", TYPE]
        question: dict[str, Any] = {"bundle": str(folder / "b.sigstore.json"), "root": str(folder / "root.json")}
        if case.identity is not None:
            arguments += ["--certificate-identity", case.identity.name]
            arguments += ["--certificate-oidc-issuer", case.identity.issuer]
            question |= {"identity": case.identity.name, "issuer": case.identity.issuer}
        else:
            assert case.key is not None
            (folder / "key.pub").write_bytes(public_keys.to_pem(case.key))
            arguments += ["--key", "key.pub"]
            question["key"] = str(folder / "key.pub")
        done = self.cosign(folder, "verify-blob-attestation", *arguments, "x.spec.json")
        found = {"cosign": done.stderr if done.returncode else ""}
        if case.identity is not None:
            found["sigstore-python"] = self.python.refuses(**question)
        found["@sigstore/verify"] = self.js.refuses(**question, timestamps=1 if case.identity is not None else 0)
        return {who: why for who, why in found.items() if why}


@pytest.fixture
def judges(cosign: Cosign, python: Verifier, js: Verifier, tmp_path: Path) -> Judges:
    return Judges(cosign, python, js, tmp_path)


def ours(case: Case) -> str:
    """Return why our own verifier refuses a case, empty when it accepts it."""
    root = trusted_root.read(case.root)
    report = verify(case.content, key=case.key or (), identity=case.identity, root=root, subject=case.spec)
    return "" if report.ok else report.reason


async def test_what_we_make_is_accepted_by_every_verifier(made: Made, judges: Judges) -> None:
    """Keyless, transit (P-256, RSA, Ed25519), local and development keys, on Rekor v1 and v2: nobody refuses one."""
    assert len(made.good) == 12
    for name, case in made.good.items():
        assert not ours(case), name
        refusals = judges.refusals(name, case)
        assert not refusals, (name, refusals)


Change = Callable[[dict[str, Any]], None]


def entry(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["verificationMaterial"]["tlogEntries"][0]
    return found


def flip(holder: dict[str, Any], name: str, at: int | None = None) -> None:
    """Change a byte of a base64 value, by default in its middle."""
    content = bytearray(base64.b64decode(holder[name]))
    content[len(content) // 2 if at is None else at] ^= 0x01
    holder[name] = base64.b64encode(content).decode()


def stamp(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0]
    return found


def line(raw: dict[str, Any], name: str) -> None:
    """Add a signature line to the checkpoint."""
    entry(raw)["inclusionProof"]["checkpoint"]["envelope"] += f"— {name} YWJjZGVmZ2g=\n"


def behind_the_leaf(raw: dict[str, Any], more: str) -> None:
    """Make it an old bundle, with something behind the signer's certificate."""
    raw["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    material = raw["verificationMaterial"]
    material["x509CertificateChain"] = {"certificates": [material.pop("certificate"), {"rawBytes": more}]}


CHANGES: dict[str, Change] = {
    "payload": lambda raw: flip(raw["dsseEnvelope"], "payload"),
    "signature": lambda raw: flip(raw["dsseEnvelope"]["signatures"][0], "sig"),
    "log body": lambda raw: flip(entry(raw), "canonicalizedBody"),
    "root hash": lambda raw: flip(entry(raw)["inclusionProof"], "rootHash"),
    "no entry": lambda raw: raw["verificationMaterial"].update(tlogEntries=[]),
    "no checkpoint": lambda raw: entry(raw)["inclusionProof"].pop("checkpoint"),
    "no proof": lambda raw: entry(raw).pop("inclusionProof"),
    "second signature": lambda raw: raw["dsseEnvelope"]["signatures"].append({"sig": "MAA="}),
    "unknown field": lambda raw: raw.update(unknown="x"),
    "timestamp": lambda raw: flip(stamp(raw), "signedTimestamp"),
    "timestamp's signature": lambda raw: flip(stamp(raw), "signedTimestamp", at=-1),
    "wrong statement type": lambda raw: raw["dsseEnvelope"].update(payloadType="application/json"),
}
OF_CERTIFICATES: dict[str, Change] = {
    "certificate": lambda raw: flip(raw["verificationMaterial"]["certificate"], "rawBytes"),
    "keyid": lambda raw: raw["dsseEnvelope"]["signatures"][0].update(keyid="anything"),
    "rubbish behind the leaf": lambda raw: behind_the_leaf(raw, "AAAA"),
}
OF_V1: dict[str, Change] = {
    "a witness": lambda raw: line(raw, "witness.example"),
    "promise": lambda raw: flip(entry(raw)["inclusionPromise"], "signedEntryTimestamp"),
    "no promise": lambda raw: entry(raw).pop("inclusionPromise"),
    "integrated time": lambda raw: entry(raw).update(integratedTime=str(int(entry(raw)["integratedTime"]) + 1)),
}
OF_V2: dict[str, Change] = {
    "a witness with a plus": lambda raw: line(raw, "wit+ness"),
    "a witness with a control character": lambda raw: line(raw, "wit\x01ness"),
    "a time nobody signed": lambda raw: entry(raw).update(integratedTime="1700000000"),
}


REFUSED_BY_US_ALONE = {
    # A byte in the middle of a token belongs to a certificate that it carries: only we compare those.
    *(f"timestamp, {name}" for name in ("fulcio-v1", "fulcio-v2", "transit-ecdsa-p256-v1", "transit-ecdsa-p256-v2")),
    # They take a v2 tree's root from its checkpoint.
    "root hash, transit-ecdsa-p256-v2",
    # For key bundles the others look at no time at all.
    "no promise, transit-ecdsa-p256-v1",
    "timestamp's signature, transit-ecdsa-p256-v1",
    "timestamp's signature, transit-ecdsa-p256-v2",
    "a time nobody signed, transit-ecdsa-p256-v2",
    "a time nobody signed, fulcio-v2",
}


def worse(made: Made) -> Iterator[tuple[str, Case]]:
    """Every way in which a bundle of each mode and log may be wrong."""
    foreign = FakeSigstore(SystemClock()).trusted_root
    for name in ("fulcio-v1", "fulcio-v2", "transit-ecdsa-p256-v1", "transit-ecdsa-p256-v2"):
        case = made.good[name]
        changes = CHANGES | (OF_V1 if name.endswith("v1") else OF_V2) | (OF_CERTIFICATES if case.identity else {})
        for what, change in changes.items():
            raw = json.loads(case.content)
            change(raw)
            yield f"{what}, {name}", replace(case, content=json.dumps(raw).encode())
        other = json.loads(made.good["fulcio-v2" if name.endswith("v1") else "fulcio-v1"].content)
        raw = json.loads(case.content)
        entry(raw)["inclusionProof"]["checkpoint"] = entry(other)["inclusionProof"]["checkpoint"]
        yield f"foreign checkpoint, {name}", replace(case, content=json.dumps(raw).encode())
        raw = json.loads(case.content)
        raw["verificationMaterial"]["tlogEntries"] = copy.deepcopy(other["verificationMaterial"]["tlogEntries"])
        yield f"foreign entry, {name}", replace(case, content=json.dumps(raw).encode())
        yield f"wrong root, {name}", replace(case, root=foreign)
        yield f"wrong subject, {name}", replace(case, spec=SPEC + b"\n")
        if case.identity is not None:
            who = case.identity
            yield f"wrong identity, {name}", replace(case, identity=Identity(who.name + "x", who.issuer))
            yield f"wrong issuer, {name}", replace(case, identity=Identity(who.name, who.issuer + "x"))
            without = json.loads(case.root)
            without["ctlogs"] = []
            yield f"no certificate log trusted, {name}", replace(case, root=json.dumps(without).encode())
        else:
            yield f"wrong key, {name}", replace(case, key=made.good["local-v1"].key)
    raw = json.loads(made.good["fulcio-v2"].content)
    del raw["verificationMaterial"]["timestampVerificationData"]
    yield "no timestamp, fulcio-v2", replace(made.good["fulcio-v2"], content=json.dumps(raw).encode())
    yield from made.bad.items()


async def test_what_any_verifier_refuses_ours_refuses(made: Made, judges: Judges) -> None:
    """A flipped byte, another name, root, key or checkpoint, a certificate that had ended, no SCT, no timestamp."""
    cases = dict(worse(made))
    assert len(cases) >= 90
    verdicts = {name: ours(case) for name, case in cases.items()}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        lock = _Taken(judges)
        asked = dict(zip(cases, pool.map(lock.refusals, cases, cases.values()), strict=True))
    assert not [(name, refusals) for name, refusals in asked.items() if refusals and not verdicts[name]]
    # What nobody else refuses proves nothing about us, so it is known by name.
    assert {name for name, refusals in asked.items() if not refusals} <= REFUSED_BY_US_ALONE
    assert all(verdicts.values())


class _Taken:
    """Judges who are asked by several threads: cosign at the same time, the two others one after the other."""

    def __init__(self, judges: Judges) -> None:
        self._lock = threading.Lock()
        self._judges = replace(judges, python=self._behind(judges.python), js=self._behind(judges.js))

    def refusals(self, name: str, case: Case) -> dict[str, str]:
        return self._judges.refusals(name, case)

    def _behind(self, verifier: Verifier) -> Any:
        lock = self._lock

        class Behind:
            def refuses(self, **question: object) -> str:
                with lock:
                    return verifier.refuses(**question)

        return Behind()


async def test_a_timestamp_that_is_missing_beside_a_promise_is_a_matter_of_policy(made: Made, judges: Judges) -> None:
    """The log signed a time, so that nobody misses the authority's: accepted by all, ours included."""
    raw = json.loads(made.good["fulcio-v1"].content)
    del raw["verificationMaterial"]["timestampVerificationData"]
    case = replace(made.good["fulcio-v1"], content=json.dumps(raw).encode())
    assert not ours(case)
    assert not judges.refusals("no timestamp", case)
