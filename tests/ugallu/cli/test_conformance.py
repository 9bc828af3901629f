"""The conformance suite asks as its protocol says; every case of the corpus is answered as it expects."""

import base64
import contextlib
import datetime as dt
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cli.conformance import main
from ugallu.cli.conformance_sign import CONFIG, GITHUB, _identity, chosen, read_config
from ugallu.errors import PermanentError
from ugallu.evidence.signers.token import TokenFile
from ugallu.evidence.x509 import Identity

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


SERVICE = {"url": "https://x.test", "validFor": {"start": "2026-01-01T00:00:00Z"}}


def config_of(*logs: dict[str, object]) -> bytes:
    return json.dumps({"mediaType": CONFIG, "rekorTlogUrls": [SERVICE | log for log in logs]}).encode()


@pytest.mark.parametrize(
    ("logs", "url"),
    [
        ([], ""),
        ([{"majorApiVersion": 3}], ""),
        ([{"url": "one"}, {"url": "two", "majorApiVersion": 2}], "two"),
        ([{"url": "old"}, {"url": "new", "validFor": {"start": "2026-02-01T00:00:00Z"}}], "new"),
        ([{"url": "now"}, {"url": "later", "validFor": {"start": "2027-02-01T00:00:00Z"}}], "now"),
        ([{"validFor": {"start": "2025-01-01T00:00:00Z", "end": "2025-02-01T00:00:00Z"}}], ""),
    ],
)
def test_the_service_that_counts_now_is_asked(logs: list[dict[str, object]], url: str) -> None:
    """The newest version that we speak, the newest of those; none that has ended, or has not begun."""
    found = chosen(read_config(config_of(*logs)).rekor_tlog_urls, dt.datetime(2026, 6, 1, tzinfo=dt.UTC), (1, 2))
    assert (found.url if found is not None else "") == url


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: config_of({"url": text})))
def test_a_signing_config_is_read_or_refused(content: bytes) -> None:
    """Whatever is given."""
    with contextlib.suppress(PermanentError):
        assert read_config(content).media_type == CONFIG


@pytest.mark.parametrize(
    ("claims", "name", "issuer"),
    [
        (
            {"sub": "system:serviceaccount:a:b"},
            "https://kubernetes.io/namespaces/a/serviceaccounts/b",
            "https://i.test",
        ),
        ({"email": "a@b.test"}, "a@b.test", "https://i.test"),
        ({"email": "a@b.test", "federated_claims": {"connector_id": "https://up.test"}}, "a@b.test", "https://up.test"),
        ({"iss": GITHUB, "job_workflow_ref": "o/r/.github/w.yml@m"}, "https://github.com/o/r/.github/w.yml@m", GITHUB),
        ({"sub": "somebody"}, "", ""),
    ],
)
def test_who_signs_follows_from_the_token(claims: dict[str, object], name: str, issuer: str, tmp_path: Path) -> None:
    """A ServiceAccount, a person, a person behind a broker, a workflow; nobody else."""
    body = json.dumps({"iss": "https://i.test", "aud": "sigstore", **claims}).encode()
    token = f"e30.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.c2ln"
    (tmp_path / "token").write_text(token)
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    if not name:
        with pytest.raises(PermanentError, match="not known here"):
            _identity(token, now, TokenFile(tmp_path / "token"))
        return
    assert _identity(token, now, TokenFile(tmp_path / "token")) == Identity(name, issuer)
