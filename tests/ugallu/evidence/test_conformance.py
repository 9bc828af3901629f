"""Bundles that others made (tests/data/sigstore): what must be refused is, and our parts hold on real logs."""

import json
from pathlib import Path

import pytest

from ugallu.errors import PermanentError
from ugallu.evidence import bundle, keys, rekor, trusted_root
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.verify import Outcome, verify

CASES = Path(__file__).parents[2] / "data" / "sigstore"
REFUSED = sorted(path.name for path in CASES.glob("*_fail"))
KEY = keys.from_pem((CASES / "managed-key-and-trusted-root" / "key.pub").read_bytes())


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_fail_fails(case: str) -> None:
    """Each bundle that a conforming client must refuse is refused."""
    folder = CASES / case
    roots = folder if (folder / "trusted_root.json").exists() else CASES / "rekor2-dsse-happy-path"
    try:
        root = trusted_root.read((roots / "trusted_root.json").read_bytes())
    except PermanentError:
        assert case.startswith("trust-root-")
        return
    assert not verify((folder / "bundle.sigstore.json").read_bytes(), key=KEY, root=root).ok


@pytest.mark.parametrize("case", ["rekor2-dsse-happy-path", "rekor2-checkpoint-multiple-cosigs"])
def test_proofs_and_checkpoints_of_a_public_log_hold(case: str) -> None:
    """Inclusion proof, origin and signature of a public Rekor v2 log are as we compute them, cosigned or not."""
    root = trusted_root.read((CASES / case / "trusted_root.json").read_bytes())
    raw = json.loads((CASES / case / "bundle.sigstore.json").read_bytes())
    entry = bundle.read(_as_dsse(raw)).entries[0]
    log = root.logs[entry.log_id]
    leaf = merkle.leaf_hash(entry.body)
    assert merkle.root_of_inclusion(leaf, entry.log_index, entry.tree_size, entry.hashes) == entry.root_hash
    signed = note.read(entry.checkpoint)
    assert (signed.origin, signed.size, signed.root) == (log.origin, entry.tree_size, entry.root_hash)
    (line,) = [line for line in signed.signatures if line.key_hint == log.log_id[:4]]
    assert keys.verifies(log.spki, line.signature, signed.body.encode())


def test_the_entry_of_a_public_log_is_the_one_that_we_rebuild() -> None:
    """For an envelope that a public Rekor v2 logged, our body equals the log's, byte for byte."""
    read = bundle.read((CASES / "rekor2-dsse-happy-path" / "bundle.sigstore.json").read_bytes())
    assert rekor.body(read.envelope) == read.entries[0].body


def test_a_bundle_signed_with_a_certificate_is_refused_with_the_reason() -> None:
    """This release checks key bundles; for another one it says so instead of guessing."""
    folder = CASES / "rekor2-dsse-happy-path"
    root = trusted_root.read((folder / "trusted_root.json").read_bytes())
    report = verify((folder / "bundle.sigstore.json").read_bytes(), key=KEY, root=root)
    check = next(check for check in report.checks if check.name == "key")
    assert check.outcome is Outcome.FAILED
    assert "certificate" in check.detail


def test_a_bundle_over_a_bare_file_is_refused_with_the_reason() -> None:
    """A message signature is a bundle of another kind: refused by name of the field."""
    with pytest.raises(PermanentError, match="messageSignature"):
        bundle.read((CASES / "managed-key-and-trusted-root" / "bundle.sigstore.json").read_bytes())


def _as_dsse(raw: dict[str, object]) -> bytes:
    """Put an envelope in the place of a message signature: only the log's part is of interest."""
    if raw.pop("messageSignature", None) is not None:
        raw["dsseEnvelope"] = {"payload": "", "payloadType": "x", "signatures": [{"sig": "AA=="}]}
    return json.dumps(raw).encode()
