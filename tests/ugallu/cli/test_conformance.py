"""The conformance suite asks as its protocol says; every case of the corpus is answered as it expects."""

import hashlib
import json
from pathlib import Path

import pytest

from ugallu.cli.conformance import main

CASES = Path(__file__).parents[2] / "data" / "sigstore"
LINES = [json.loads(line) for line in (CASES / "cases.jsonl").read_text().splitlines()]


def question(case: dict[str, str], artifact: str) -> list[str]:
    asked = ["--root", str(CASES / "trusted_root.production.json"), "verify-bundle"]
    asked += ["--bundle", str(CASES / case["case"] / "bundle.sigstore.json")]
    if "key" in case:
        asked += ["--key", str(CASES / case["key"])]
    else:
        asked += ["--certificate-identity", case["identity"], "--certificate-oidc-issuer", case["issuer"]]
    if case["trusted_root"] != "production":
        asked += ["--trusted-root", str(CASES / case["trusted_root"])]
    return [*asked, artifact]


@pytest.mark.parametrize("case", LINES, ids=lambda case: case["case"])
def test_the_suite_is_answered_as_it_expects(case: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """By file: exit status 0 for what must verify, 1 and a reason for what must not."""
    status = main(question(case, str(CASES / case["artifact"])))
    assert status == (0 if case["expect"] == "ok" else 1)
    assert bool(capsys.readouterr().err) is (status == 1)


def test_an_artifact_may_be_its_digest(capsys: pytest.CaptureFixture[str]) -> None:
    """`sha256:` and the digest, when no file has that name."""

    (case,) = [case for case in LINES if case["case"] == "happy-path-v0.1"]
    digest = hashlib.sha256((CASES / "a.txt").read_bytes()).hexdigest()
    assert main(question(case, f"sha256:{digest}")) == 0
    assert main(question(case, f"sha256:{digest[::-1]}")) == 1
    assert main(question(case, "sha256:short")) == 1
    capsys.readouterr()


def test_without_a_root_nothing_is_believed(capsys: pytest.CaptureFixture[str]) -> None:
    """No root is built in and none is fetched."""
    case = LINES[0]
    assert (
        main(
            [
                word
                for word in question(case, "x")
                if word not in ("--root", str(CASES / "trusted_root.production.json"))
            ]
        )
        == 1
    )
    assert "no trusted root" in capsys.readouterr().err
