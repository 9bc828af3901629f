"""The verifier believes nothing: one changed byte, anywhere, is refused."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence import bundle, keys, trusted_root
from ugallu.evidence.dsse import pae
from ugallu.evidence.kit import Kit
from ugallu.evidence.verify import Outcome, Report, verify
from ugallu.testing.evidence import make_event, open_evidence, seal


@pytest.fixture
async def kit(tmp_path: Path) -> Kit:
    """The middle one of five sealed events: its proof has hashes on both sides."""
    evidence = open_evidence(tmp_path)
    kits = []
    for number in range(5):
        made, envelope, _ = await seal(evidence, make_event(f"se-{number:024x}"))
        kits.append((made, envelope))
    made, envelope = kits[2]
    # Logged again: the same entry, proven in the tree of five.
    entry = await evidence.log.add(envelope)
    evidence.close()
    return msgspec.structs.replace(made, bundle=bundle.write(envelope, entry))


def check(kit: Kit, content: bytes | None = None, subject: bytes | None = None) -> Report:
    return verify(
        kit.bundle if content is None else content,
        key=kit.key,
        root=trusted_root.read(kit.trusted_root),
        subject=kit.spec if subject is None else subject,
    )


def test_a_sealed_event_verifies_check_by_check(kit: Kit) -> None:
    """Every check passes, and each says what it proves."""
    report = check(kit)
    assert report.ok, report.reason
    assert {c.outcome for c in report.checks} == {Outcome.PASSED}
    assert all(c.detail for c in report.checks)
    assert report.log_index == 2


def test_without_subject_bytes_only_that_check_is_skipped(kit: Kit) -> None:
    """The bundle alone can be checked; the report says that the subject was not."""
    report = verify(kit.bundle, key=kit.key, root=trusted_root.read(kit.trusted_root))
    assert report.ok
    assert [c.name for c in report.checks if c.outcome is Outcome.SKIPPED] == ["subject"]


def test_no_changed_byte_of_the_bundle_goes_unseen(kit: Kit) -> None:
    """Every byte of the file, flipped in its lowest and in another bit, makes it fail: structure, names and values."""
    for at in range(len(kit.bundle)):
        for bit in (0x01, 0x20):
            changed = bytearray(kit.bundle)
            changed[at] ^= bit
            assert not check(kit, bytes(changed)).ok, (at, bit, kit.bundle[max(0, at - 20) : at + 20])


def test_no_changed_byte_of_the_decoded_parts_goes_unseen(kit: Kit) -> None:
    """Every byte of payload, signature, log entry, hashes, root and log id, changed and encoded anew, is refused."""
    raw = json.loads(kit.bundle)
    entry = raw["verificationMaterial"]["tlogEntries"][0]
    spots: list[tuple[Any, Any]] = [
        (raw["dsseEnvelope"], "payload"),
        (raw["dsseEnvelope"]["signatures"][0], "sig"),
        (entry, "canonicalizedBody"),
        (entry["logId"], "keyId"),
        (entry["inclusionProof"], "rootHash"),
        (raw["verificationMaterial"]["publicKey"], "hint"),
        *((entry["inclusionProof"]["hashes"], at) for at in range(len(entry["inclusionProof"]["hashes"]))),
    ]
    assert len(spots) >= 8
    for holder, name in spots:
        text = holder[name]
        plain = base64.b64decode(text)
        for at in range(len(plain)):
            changed = bytearray(plain)
            changed[at] ^= 0x01
            holder[name] = base64.b64encode(changed).decode()
            assert not check(kit, json.dumps(raw).encode()).ok, (name, at)
        holder[name] = text
    assert check(kit, json.dumps(raw).encode()).ok


def test_no_changed_byte_of_the_subject_goes_unseen(kit: Kit) -> None:
    """Every byte of the event's spec counts, and so does one more or less."""
    for at in range(len(kit.spec)):
        changed = bytearray(kit.spec)
        changed[at] ^= 0x01
        assert not check(kit, subject=bytes(changed)).ok
    assert not check(kit, subject=kit.spec + b"\n").ok
    assert not check(kit, subject=kit.spec[:-1]).ok
    assert not check(kit, subject=b"").ok


def change(kit: Kit, **changes: Any) -> bytes:
    raw = json.loads(kit.bundle)
    for path, value in changes.items():
        spot = raw
        *steps, last = path.split("__")
        for step in steps:
            spot = spot[int(step) if step.isdigit() else step]
        if value is None:
            del spot[last]
        else:
            spot[last] = value
    return json.dumps(raw).encode()


TLE = "verificationMaterial__tlogEntries__0__"


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"verificationMaterial__tlogEntries": []}, "log"),
        ({f"{TLE}integratedTime": "1700000000"}, "time"),
        ({f"{TLE}inclusionPromise": {"signedEntryTimestamp": "AAAA"}}, "time"),
        (
            {"verificationMaterial__timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]}},
            "time",
        ),
        ({f"{TLE}inclusionProof": None}, "bundle"),
        ({f"{TLE}inclusionProof__checkpoint": None}, "bundle"),
        ({f"{TLE}logIndex": "3"}, "bundle"),
        ({f"{TLE}logIndex": "-1"}, "bundle"),
        ({f"{TLE}logIndex": "02"}, "bundle"),
        ({f"{TLE}kindVersion__version": "0.0.1"}, "entry"),
        ({f"{TLE}kindVersion__kind": "dsse"}, "entry"),
        ({"dsseEnvelope__signatures": []}, "bundle"),
        ({"dsseEnvelope__signatures": [{"sig": "AAAA"}, {"sig": "AAAA"}]}, "bundle"),
        ({"dsseEnvelope__signatures__0__keyid": "x"}, None),
        ({"dsseEnvelope__payloadType": "application/json"}, "signature"),
        ({"extra": 1}, "bundle"),
        ({"verificationMaterial__x509CertificateChain": {}}, "bundle"),
        ({"verificationMaterial__certificate": {"rawBytes": "AAAA"}}, "bundle"),
        ({"verificationMaterial__publicKey": None}, "bundle"),
        ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, "bundle"),
    ],
)
def test_what_is_wrong_is_named(kit: Kit, changes: dict[str, Any], failing: str | None) -> None:
    """Each forgery fails the check that is about it."""
    if failing is None:
        raw = json.loads(kit.bundle)
        raw["dsseEnvelope"]["signatures"][0]["keyid"] = "x"
        report = check(kit, json.dumps(raw).encode())
        failing = "bundle"
    else:
        report = check(kit, change(kit, **changes))
    assert not report.ok
    assert failing in {c.name for c in report.checks if c.outcome is Outcome.FAILED}
    assert report.reason


def test_a_field_that_stands_twice_is_refused(kit: Kit) -> None:
    """Two values under one name are read differently by different parsers."""
    doubled = kit.bundle.replace(b'{"mediaType"', b'{"mediaType":"x","mediaType"', 1)
    assert "twice" in check(kit, doubled).reason


async def test_a_statement_of_two_minds_is_refused(tmp_path: Path) -> None:
    """Signed and logged by the right key, and yet: which of the two subjects would another reader see?"""
    evidence = open_evidence(tmp_path)
    made, envelope, _ = await seal(evidence, make_event())
    payload = envelope.payload.replace(b'"subject":', b'"subject":[],"subject":', 1)
    forged = await evidence.signer.sign(envelope.payload_type, payload)
    report = check(made, bundle.write(forged, await evidence.log.add(forged)))
    evidence.close()
    assert report.reason.startswith("statement: statement: a field stands twice")


async def test_another_key_or_log_is_refused_by_name(kit: Kit, tmp_path: Path) -> None:
    """Evidence of another installation fails the checks of key and log, and only says so."""
    other = open_evidence(tmp_path / "other")
    report = verify(kit.bundle, key=other.key, root=trusted_root.read(other.trusted_root), subject=kit.spec)
    other.close()
    assert {c.name for c in report.checks if c.outcome is Outcome.FAILED} == {"key", "signature", "log"}


@pytest.mark.parametrize("claimed", ["", "PKIX_ED25519", "PKIX_ECDSA_P384_SHA_384"])
def test_a_log_key_is_what_the_trusted_root_says(kit: Kit, claimed: str) -> None:
    """A root that calls the key by another algorithm is not followed halfway."""
    root = kit.trusted_root.replace(b"PKIX_ECDSA_P256_SHA_256", claimed.encode())
    report = verify(kit.bundle, key=kit.key, root=trusted_root.read(root), subject=kit.spec)
    assert {c.name for c in report.checks if c.outcome is Outcome.FAILED} == {"checkpoint"}


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_garbage_is_an_error_not_a_crash(content: bytes) -> None:
    """Any bytes at all: the parsers raise our own error, or read."""
    for parse in (bundle.read, trusted_root.read, keys.from_pem):
        try:
            parse(content)
        except UgalluError:
            continue


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 100_000, b"1" * (9 << 20)])
def test_hostile_sizes_are_refused(content: bytes) -> None:
    """Depth and size are bounded."""
    with pytest.raises(PermanentError):
        bundle.read(content)
    with pytest.raises(PermanentError):
        trusted_root.read(content)


async def test_what_was_checked_is_not_kept(tmp_path: Path) -> None:
    """Thousands of bundles of megabytes each may be checked in one process."""
    evidence = open_evidence(tmp_path)
    payload = bytes(1 << 20)
    envelope = await evidence.signer.sign("x", payload)
    evidence.close()
    message = pae("x", payload)
    before = sys.getrefcount(message)
    assert keys.verifies(evidence.key.spki, envelope.signature, message)
    assert sys.getrefcount(message) == before
