"""Bundles of certificates and timestamps: what is missing, ended, or vouched for by somebody else is refused by name."""

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ugallu.errors import PermanentError
from ugallu.evidence import bundle, trusted_root
from ugallu.evidence.dsse import pae
from ugallu.evidence.logs import note
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, LogEntry, PublicKey
from ugallu.evidence.trust import Trust, holds
from ugallu.evidence.verify import POLICY, Outcome, Policy, Report, verify
from ugallu.evidence.x509 import Identity
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import subject
from ugallu.testing.sigstore import WHO, FakeSigstore, certified, keyed, limited

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def services(clock: ManualClock) -> FakeSigstore:
    return FakeSigstore(clock)


async def logged(services: FakeSigstore, envelope: Envelope) -> LogEntry:
    log = services.rekor.log
    return await RekorV1(services.rekor, log, Witness(log), services.clock).add(envelope)


def envelope(services: FakeSigstore, **issue: Any) -> Envelope:
    return certified(services.fulcio, STATEMENT_MEDIA_TYPE, subject(1), **issue)


def check(
    services: FakeSigstore, content: bytes, *, policy: Policy = POLICY, root: bytes = b"", who: Identity = WHO
) -> Report:
    read = trusted_root.read(root or services.trusted_root)
    return verify(content, identity=who, root=read, subject=b"1", policy=policy)


def failed(report: Report) -> set[str]:
    return {one.name for one in report.checks if one.outcome is Outcome.FAILED}


async def test_every_check_of_a_certificate_bundle_passes_and_is_named(services: FakeSigstore) -> None:
    """Certificate, its log, the name, signature, entry, proof, checkpoint and two signed times."""
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)])
    report = check(services, content)
    assert report.ok, report.reason
    assert {one.outcome for one in report.checks} == {Outcome.PASSED}
    assert {"certificate", "certificate-log", "identity", "time"} <= {one.name for one in report.checks}
    assert "key" not in {one.name for one in report.checks}
    assert report.signer == WHO
    assert len(report.times) == 2


async def test_no_changed_byte_goes_unseen(services: FakeSigstore) -> None:
    """Every fifth byte of a certificate bundle with a timestamp, changed, is refused: names, values, token and all."""
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)])
    assert check(services, content).ok
    for at in range(0, len(content), 5):  # five and the four of base64 meet in every place
        changed = bytearray(content)
        changed[at] ^= 0x01
        assert not check(services, bytes(changed)).ok, content[max(0, at - 30) : at + 30]


def drop(raw: dict[str, Any], *path: str | int) -> None:
    spot: Any = raw
    for step in path[:-1]:
        spot = spot[step]
    del spot[path[-1]]


TLE = ("verificationMaterial", "tlogEntries", 0)
STAMPS = ("verificationMaterial", "timestampVerificationData")


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        # The two that are a matter of policy: a token that is not there is not missed while the log signed a time.
        (lambda raw: drop(raw, *STAMPS), None),
        # cosign refuses the next, and so do we: a time that stands in the bundle must be signed.
        (lambda raw: drop(raw, *TLE, "inclusionPromise"), "time"),
        (lambda raw: drop(raw, *TLE), "log"),
        (lambda raw: drop(raw, *TLE, "inclusionProof", "checkpoint"), "bundle"),
        (lambda raw: drop(raw, *TLE, "inclusionProof"), "bundle"),
        (lambda raw: drop(raw, *TLE, "integratedTime"), "time"),
        (lambda raw: raw.update(unknown=1), "bundle"),
        (lambda raw: raw["verificationMaterial"].update(publicKey={"hint": "x"}), "bundle"),
        (
            lambda raw: raw["verificationMaterial"]["tlogEntries"].append(
                raw["verificationMaterial"]["tlogEntries"][0]
            ),
            "log",
        ),
        (lambda raw: raw["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}), "bundle"),
    ],
)
async def test_what_is_missing_or_too_much(
    services: FakeSigstore, change: Callable[[dict[str, Any]], None], failing: str | None
) -> None:
    """Each part that stock verifiers demand is demanded, and what one of them refuses is refused."""
    signed = envelope(services)
    raw = json.loads(bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)]))
    change(raw)
    report = check(services, json.dumps(raw).encode())
    assert failed(report) >= ({failing} if failing else set())
    assert report.ok is (failing is None)


async def test_a_signature_after_the_certificate_had_ended_is_refused(
    services: FakeSigstore, clock: ManualClock
) -> None:
    """The log's time, or an authority's, lies outside of the certificate's ten minutes."""
    late = envelope(services, at=clock.now() - HOUR)
    assert failed(check(services, bundle.write(late, await logged(services, late)))) == {
        "certificate",
        "certificate-log",
    }
    early = envelope(services)
    entry = await logged(services, early)
    for at in (clock.now() + HOUR, clock.now() - HOUR):
        content = bundle.write(early, entry, [services.authority.stamp(early.signature, at=at)])
        assert "certificate" in failed(check(services, content))


async def test_a_certificate_that_was_in_no_log_is_refused(services: FakeSigstore) -> None:
    """Without a promise, or one of a log that the reader does not trust; unless the reader says that it does not matter."""
    services.fulcio.with_sct = False
    without = envelope(services)
    content = bundle.write(without, await logged(services, without))
    assert failed(check(services, content)) == {"certificate-log"}
    assert check(services, content, policy=Policy(certificate_log=False)).ok
    services.fulcio.with_sct = True
    good = envelope(services)
    raw = json.loads(services.trusted_root)
    raw["ctlogs"] = []
    report = check(services, bundle.write(good, await logged(services, good)), root=json.dumps(raw).encode())
    assert failed(report) == {"certificate-log"}


@pytest.mark.parametrize(
    "who", [Identity(WHO.name + "x", WHO.issuer), Identity(WHO.name, WHO.issuer + "x"), Identity("", "")]
)
async def test_another_name_is_refused(services: FakeSigstore, who: Identity) -> None:
    """The name is compared whole, and so is who vouches for it."""
    signed = envelope(services)
    assert failed(check(services, bundle.write(signed, await logged(services, signed)), who=who)) == {"identity"}


async def test_a_certificate_for_something_else_signs_no_evidence(services: FakeSigstore) -> None:
    """A server's certificate of the same authority is no signer's."""
    signed = envelope(services, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    assert failed(check(services, bundle.write(signed, await logged(services, signed)))) == {"certificate"}


@pytest.mark.parametrize("part", ["certificateAuthorities", "timestampAuthorities", "tlogs", "ctlogs"])
async def test_who_is_trusted_is_trusted_from_when_to_when(
    services: FakeSigstore, part: str, clock: ManualClock
) -> None:
    """Each authority and log counts between its two times, ends included, and neither before nor after."""
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)])
    now = clock.now().replace(microsecond=0)
    for start, end, good in (
        (now, now, True),
        (now - HOUR, now + HOUR, True),
        (now + HOUR, now + 2 * HOUR, False),
        (now - 2 * HOUR, now - HOUR, False),
    ):
        raw = json.loads(services.trusted_root)
        for one in raw[part]:
            one.get("publicKey", one)["validFor"] = {"start": start.isoformat(), "end": end.isoformat()}
        assert check(services, content, root=json.dumps(raw).encode()).ok is good


@pytest.mark.parametrize("part", ["certificateAuthorities", "timestampAuthorities", "tlogs", "ctlogs"])
async def test_another_installations_services_are_not_believed(services: FakeSigstore, part: str) -> None:
    """Authority, certificate log, log or timestamp authority of somebody else: refused, each."""
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)])
    raw = json.loads(services.trusted_root)
    raw[part] = json.loads(FakeSigstore(services.clock).trusted_root)[part]
    assert not check(services, content, root=json.dumps(raw).encode()).ok


@pytest.mark.parametrize(
    ("purposes", "critical"),
    [
        ([ExtendedKeyUsageOID.TIME_STAMPING], False),
        ([ExtendedKeyUsageOID.CODE_SIGNING], True),
        ([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING], True),
    ],
)
async def test_timestamps_are_signed_by_whoever_does_nothing_else(
    services: FakeSigstore, purposes: list[Any], critical: bool
) -> None:
    """RFC 3161 2.3: the purpose of the authority's key stands alone and is critical."""
    services.authority.certify(purposes, critical=critical)
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed), [services.authority.stamp(signed.signature)])
    assert "time" in failed(check(services, content))


async def test_timestamps_can_be_demanded(services: FakeSigstore) -> None:
    """A reader who wants an authority's time refuses a bundle that has the log's alone; one token is not two."""
    signed = envelope(services)
    entry = await logged(services, signed)
    stamp = services.authority.stamp(signed.signature)
    demand = Policy(timestamps=1)
    assert "time" in failed(check(services, bundle.write(signed, entry), policy=demand))
    assert check(services, bundle.write(signed, entry, [stamp]), policy=demand).ok
    assert "time" in failed(check(services, bundle.write(signed, entry, [stamp, stamp])))


async def test_two_times_of_one_authority_are_none_of_two(services: FakeSigstore, clock: ManualClock) -> None:
    """Authorities are counted, not tokens; a second token of one is refused, as @sigstore/verify does."""
    signed = envelope(services)
    entry = await logged(services, signed)
    stamps = [services.authority.stamp(signed.signature, at=clock.now() + n * dt.timedelta(seconds=1)) for n in (0, 1)]
    for policy in (POLICY, Policy(timestamps=2)):
        assert failed(check(services, bundle.write(signed, entry, stamps), policy=policy)) >= {"time"}
    other = FakeSigstore(clock)
    raw = json.loads(services.trusted_root)
    raw["timestampAuthorities"] += json.loads(other.trusted_root)["timestampAuthorities"]
    two = bundle.write(signed, entry, [stamps[0], other.authority.stamp(signed.signature)])
    assert check(services, two, root=json.dumps(raw).encode(), policy=Policy(timestamps=2)).ok


async def test_a_certificate_has_one_promise(services: FakeSigstore) -> None:
    """With a second one sigstore-python and @sigstore/verify refuse it, and so do we."""
    services.fulcio.promises = 2
    signed = envelope(services)
    assert failed(check(services, bundle.write(signed, await logged(services, signed)))) == {"certificate-log"}


async def test_limits_on_names_are_not_passed_over(services: FakeSigstore) -> None:
    """An authority that may not certify a name certifies it for nobody, though the limit is not critical."""
    signed = envelope(services)
    content = bundle.write(signed, await logged(services, signed))
    fulcio = services.fulcio
    fulcio.root = limited(fulcio.root, fulcio.root_key, "kubernetes.io")
    assert "certificate" in failed(check(services, content))


async def test_a_certificate_is_for_a_key_that_everybody_reads(services: FakeSigstore) -> None:
    """P-256, as Sigstore's clients make them: sigstore-python refuses every other kind."""
    key = ec.generate_private_key(ec.SECP384R1())
    payload = subject(1)
    signature = key.sign(pae(STATEMENT_MEDIA_TYPE, payload), ec.ECDSA(hashes.SHA384()))
    leaf = services.fulcio.issue(key.public_key()).public_bytes(serialization.Encoding.DER)
    signed = Envelope(STATEMENT_MEDIA_TYPE, payload, signature, certificate=leaf)
    assert failed(check(services, bundle.write(signed, await logged(services, signed)))) >= {"certificate"}


def behind_the_leaf(raw: dict[str, Any], *more: str) -> None:
    """Make it an old bundle, whose certificate has others behind it."""
    raw["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    material = raw["verificationMaterial"]
    certificates = [material.pop("certificate"), *({"rawBytes": one} for one in more)]
    material["x509CertificateChain"] = {"certificates": certificates}


def checkpoint_line(raw: dict[str, Any], name: str) -> None:
    """Add a signature line."""
    checkpoint = raw["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] += f"— {name} YWJjZGVmZ2g=\n"


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (lambda raw: raw["dsseEnvelope"]["signatures"][0].update(keyid="anything"), "bundle"),
        (lambda raw: behind_the_leaf(raw, "AAAA"), "certificate"),
        (behind_the_leaf, None),
        (lambda raw: checkpoint_line(raw, "witness.example"), "checkpoint"),
    ],
)
async def test_what_a_stock_verifier_refuses_is_refused(
    services: FakeSigstore, change: Callable[[dict[str, Any]], None], failing: str | None
) -> None:
    """A keyid that names no key, rubbish behind the leaf, a second line in a Rekor v1's checkpoint."""
    signed = envelope(services)
    raw = json.loads(bundle.write(signed, await logged(services, signed)))
    change(raw)
    report = check(services, json.dumps(raw).encode())
    assert (failing is None) is report.ok
    assert failed(report) >= ({failing} if failing else set())


@pytest.mark.parametrize("name", ["wit+ness", "wit\x01ness", "wit\u2003ness"])
def test_a_witness_has_a_name_that_signed_notes_allow(name: str) -> None:
    """C2SP signed-note: no plus, no white space, no control character."""
    good = "log\n1\n" + "A" * 43 + "=\n\n— log YWJjZGVmZ2g=\n"
    assert len(note.read(good + "— witness YWJjZGVmZ2g=\n").signatures) == 2
    with pytest.raises(PermanentError):
        note.read(good + f"— {name} YWJjZGVmZ2g=\n")


async def test_one_of_many_keys(services: FakeSigstore) -> None:
    """After rotations a bundle holds under the key that it names, whichever of the known ones that is."""
    first, second = (keyed(STATEMENT_MEDIA_TYPE, subject(1)) for _ in range(2))
    assert first.key is not None
    assert second.key is not None
    root = trusted_root.read(services.trusted_root)
    trust = Trust(root, (second.key, first.key, WHO))
    for signed in (first, second):
        report = trust.check(bundle.write(signed, await logged(services, signed)), subject=b"1")
        assert report.ok, report.reason
        assert report.signer == signed.key
    stranger = keyed(STATEMENT_MEDIA_TYPE, subject(1))
    report = trust.check(bundle.write(stranger, await logged(services, stranger)), subject=b"1")
    assert "key" in failed(report)
    assert not Trust(root, ()).check(bundle.write(first, await logged(services, first))).ok


async def test_two_signatures_over_one_statement(services: FakeSigstore) -> None:
    """A certificate's and a key's bundle: any one is enough, or both are needed, as the reader says."""
    payload = subject(1)
    legs = certified(services.fulcio, STATEMENT_MEDIA_TYPE, payload), keyed(STATEMENT_MEDIA_TYPE, payload)
    key = legs[1].key
    assert isinstance(key, PublicKey)
    trust = Trust(trusted_root.read(services.trusted_root), (WHO, key))
    good = [trust.check(bundle.write(leg, await logged(services, leg)), subject=b"1") for leg in legs]
    assert holds(good, require_all=True)
    bad = trust.check(b"{}")
    assert holds([good[0], bad], require_all=False)
    assert not holds([good[0], bad], require_all=True)
    assert not holds([bad, bad], require_all=False)
    other = keyed(STATEMENT_MEDIA_TYPE, subject(2))
    assert isinstance(other.key, PublicKey)
    report = Trust(trust.root, (other.key,)).check(bundle.write(other, await logged(services, other)))
    assert report.ok
    assert not holds([good[0], report], require_all=False)


async def test_an_entry_of_the_other_kind_of_signature_is_refused(services: FakeSigstore) -> None:
    """The entry must name the very certificate that the bundle carries: a second signature is another entry."""
    one, two = envelope(services), envelope(services)
    entry = await logged(services, two)
    assert "entry" in failed(check(services, bundle.write(one, entry)))
    swapped = msgspec.structs.replace(two, certificate=one.certificate)
    assert not check(services, bundle.write(swapped, entry)).ok
