"""Bundles that others made (tests/data/sigstore): every verdict of the Sigstore conformance suite, and for its reason."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from ugallu.errors import PermanentError
from ugallu.evidence import bundle, keys, rekor, trusted_root
from ugallu.evidence.verify import Outcome, Policy, Report, verify
from ugallu.evidence.x509 import Identity

CASES = Path(__file__).parents[2] / "data" / "sigstore"
ANY = Policy(predicate_types=frozenset(), bare_files=True)


class Case(msgspec.Struct, frozen=True):
    """A line of `cases.jsonl`."""

    case: str
    expect: str
    artifact: str
    trusted_root: str
    identity: str = ""
    issuer: str = ""
    key: str = ""


FOUND = [msgspec.json.decode(line, type=Case) for line in (CASES / "cases.jsonl").read_bytes().splitlines()]
WHY = {
    # What fails in each case that must fail; the upstream README says the same in words.
    "bundle-empty-certificate-chain_fail": {"bundle"},
    "bundle-invalid-base64-signature_fail": {"bundle"},
    "bundle-negative-log-index_fail": {"bundle"},
    "bundle-unknown-version_fail": {"bundle"},
    "checkpoint-wrong-roothash_fail": {"checkpoint"},
    "dsse-invalid-sig_fail": {"signature"},
    "dsse-mismatch-sig_fail": {"entry"},
    "inclusion-proof-corrupted-hash_fail": {"inclusion"},
    "incorrect-public-key_fail": {"entry"},
    "integrated-time-in-future_fail": {"certificate"},
    "intoto-expired-certificate_fail": {"certificate"},
    "intoto-log-entry-mismatch_fail": {"entry"},
    "intoto-missing-inclusion-proof_fail": {"bundle"},
    "invalid-ct-key_fail": {"certificate-log"},
    "invalid-inclusion-proof_fail": {"bundle"},
    "message-digest-mismatch_fail": {"signature"},
    "rekor2-checkpoint-missing-origin_fail": {"checkpoint"},
    "rekor2-checkpoint-missing-root-hash_fail": {"checkpoint"},
    "rekor2-checkpoint-missing-size_fail": {"checkpoint"},
    "rekor2-dsse-invalid-sig_fail": {"signature"},
    "rekor2-dsse-mismatch-sig_fail": {"entry"},
    "rekor2-no-timestamp_fail": {"certificate"},
    "rekor2-timestamp-outside-trust-root-tsa-validity_fail": {"time"},
    "rekor2-timestamp-payload-mismatch_fail": {"time"},
    "rekor2-timestamp-untrusted-tsa-without-embedded-cert_fail": {"time"},
    # Its timestamp is spelt with line breaks, which is refused before the time is looked at: see below.
    "rekor2-timestamp-with-incorrect-time_fail": {"bundle"},
    "set-invalid-signature_fail": {"time"},
    "signature-mismatch_fail": {"signature"},
    "trust-root-tlog-missing-validity-start_fail": {"trusted root"},
    "wrong-hashedrekord-cert-and-sig_fail": {"entry"},
    "wrong-material_fail": {"signature"},
}


def judge(case: Case, *, by_digest: bool = False) -> Report | PermanentError:
    """Return our verdict, or the error over a trusted root that cannot be read."""
    name = "trusted_root.production.json" if case.trusted_root == "production" else case.trusted_root
    try:
        root = trusted_root.read((CASES / name).read_bytes())
    except PermanentError as error:
        return error
    content = (CASES / case.artifact).read_bytes()
    return verify(
        (CASES / case.case / "bundle.sigstore.json").read_bytes(),
        key=keys.from_pem((CASES / case.key).read_bytes()) if case.key else (),
        identity=None if case.key else Identity(case.identity, case.issuer),
        root=root,
        subject=None if by_digest else content,
        digest=hashlib.sha256(content).digest() if by_digest else None,
        policy=ANY,
    )


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.case)
def test_the_verdict_is_that_of_the_suite(case: Case) -> None:
    """Accepted is what must be accepted, the rest is refused; given the file, and given its digest alone."""
    for by_digest in (False, True):
        report = judge(case, by_digest=by_digest)
        if case.expect == "ok":
            assert isinstance(report, Report), report
            assert report.ok, report.reason
        else:
            assert isinstance(report, PermanentError) or not report.ok


@pytest.mark.parametrize("case", [case for case in FOUND if case.expect == "fail"], ids=lambda case: case.case)
def test_the_reason_is_that_of_the_suite(case: Case) -> None:
    """What must fail fails in the check that is about it, not by some accident before."""
    report = judge(case)
    if isinstance(report, PermanentError):
        failed = {report.where}
    else:
        failed = {check.name for check in report.checks if check.outcome is Outcome.FAILED}
    assert WHY[case.case] <= failed


def test_a_timestamp_after_the_certificate_had_ended_is_refused() -> None:
    """The case of the suite, spelt as we read it: the time is signed, and the certificate was not valid then."""
    (case,) = [case for case in FOUND if case.case == "rekor2-timestamp-with-incorrect-time_fail"]
    content = (CASES / case.case / "bundle.sigstore.json").read_bytes().replace(rb"\n", b"")
    root = trusted_root.read((CASES / case.trusted_root).read_bytes())
    subject = (CASES / case.artifact).read_bytes()
    report = verify(content, identity=Identity(case.identity, case.issuer), root=root, subject=subject, policy=ANY)
    assert report.reason.startswith("certificate: certificate: a certificate was not valid at ")


def test_the_corpus_is_whole() -> None:
    """43 cases, 31 of which must fail, each with its reason named here."""
    assert len(FOUND) == 43
    assert {case.case for case in FOUND if case.expect == "fail"} == set(WHY)
    assert len(WHY) == 31


def test_the_entry_of_a_public_log_is_the_one_that_we_rebuild() -> None:
    """For an envelope that a public Rekor v2 logged, our body equals the log's, byte for byte."""
    read = bundle.read((CASES / "rekor2-dsse-happy-path" / "bundle.sigstore.json").read_bytes())
    assert rekor.body(read.envelope) == read.entries[0].body


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"identity": "https://example.org/somebody-else"}, "identity"),
        ({"issuer": "https://example.org"}, "identity"),
        ({"trusted_root": "rekor2-happy-path/trusted_root.json"}, "certificate"),
        ({"key": "managed-key-and-trusted-root/key.pub"}, "certificate"),
        ({"artifact": "wrong-material_fail/artifact"}, "subject"),
    ],
)
def test_another_expectation_is_not_met(change: dict[str, str], failing: str) -> None:
    """A good bundle is refused for a reader who expects another name, issuer, root, key or file."""
    (case,) = [case for case in FOUND if case.case == "happy-path-intoto-in-dsse-v3"]
    report = judge(msgspec.structs.replace(case, **change))
    assert isinstance(report, Report)
    assert not report.ok
    assert failing in {check.name for check in report.checks if check.outcome is Outcome.FAILED}


def test_evidence_is_a_statement_of_ours_unless_the_reader_says_otherwise() -> None:
    """By default a signature over a bare file is refused, and so is a statement of a type that is not ours."""
    folder = CASES / "managed-key-and-trusted-root"
    root = trusted_root.read((folder / "trusted_root.json").read_bytes())
    key = keys.from_pem((folder / "key.pub").read_bytes())
    report = verify((folder / "bundle.sigstore.json").read_bytes(), key=key, root=root)
    assert "messageSignature" in report.reason
    (case,) = [case for case in FOUND if case.case == "rekor2-dsse-happy-path"]
    root = trusted_root.read((CASES / case.trusted_root).read_bytes())
    content = (CASES / case.case / "bundle.sigstore.json").read_bytes()
    report = verify(content, identity=Identity(case.identity, case.issuer), root=root)
    assert [check.name for check in report.checks if check.outcome is Outcome.FAILED] == ["statement"]
