"""The conformance suite's `sign-bundle` against real services: its own `verify-bundle` and stock tools accept the result."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.evidence.stack import Sigstore
from ugallu.cli.conformance import main
from ugallu.cli.conformance_sign import CONFIG, PREDICATE

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("generation", [1, 2])
def test_a_signed_file_verifies(sigstore: Sigstore, cosign: Cosign, tmp_path: Path, generation: int) -> None:
    """On either generation of logs, with the services that a signing config names; another file does not verify."""
    log = sigstore.rekor1 if generation == 1 else sigstore.rekor2
    places = {"caUrls": sigstore.fulcio, "rekorTlogUrls": log, "tsaUrls": sigstore.timestamps}
    config = {"mediaType": CONFIG} | {
        name: [
            {
                "url": url,
                "majorApiVersion": generation if name == "rekorTlogUrls" else 1,
                "validFor": {"start": "2026-01-01T00:00:00Z"},
            }
        ]
        for name, url in places.items()
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "root.json").write_bytes(sigstore.trusted_root)
    (tmp_path / "a.txt").write_text("an artifact\n")
    (tmp_path / "other.txt").write_text("another\n")
    asked = ["sign-bundle", "--identity-token", sigstore.issuer.token(), "--bundle", str(tmp_path / "b.sigstore.json")]
    asked += ["--trusted-root", str(tmp_path / "root.json"), "--signing-config", str(tmp_path / "config.json")]
    assert main([*asked, str(tmp_path / "a.txt")]) == 0
    who = ["--certificate-identity", sigstore.issuer.identity, "--certificate-oidc-issuer", sigstore.issuer.url]
    check = ["verify-bundle", "--bundle", str(tmp_path / "b.sigstore.json"), *who]
    check += ["--trusted-root", str(tmp_path / "root.json")]
    assert main([*check, str(tmp_path / "a.txt")]) == 0
    assert main([*check, str(tmp_path / "other.txt")]) == 1
    words = ["verify-blob-attestation", "--bundle", "b.sigstore.json", "--trusted-root", "root.json"]
    done = cosign(tmp_path, *words, "--type", PREDICATE, *who, "a.txt")
    assert done.returncode == 0, done.stderr
