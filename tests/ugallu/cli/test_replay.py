"""`ugallu replay`, in this process: what it refuses, and what it says of an input that is none."""

from pathlib import Path

import msgspec
import pytest

from ugallu.cli import main as cli

RULE = """
apiVersion: security.ugallu.io/v1alpha1
kind: SigmaRule
metadata: {name: every-delete}
spec:
  match: {verb: [delete]}
  emit: {securityEventType: KubernetesAPICall, severity: low}
"""
LINE = (
    b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stage":"ResponseComplete","verb":"delete",'
    b'"requestURI":"/api/v1/namespaces/x/pods/y","user":{"username":"eve"},"objectRef":{"resource":"pods",'
    b'"namespace":"x","name":"y","apiVersion":"v1"},"stageTimestamp":"2026-01-01T00:00:00.000000Z",'
    b'"requestReceivedTimestamp":"2026-01-01T00:00:00.000000Z"}\n'
)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rule.yaml").write_text(RULE)
    return tmp_path / "rule.yaml"


def replay(log: Path, rules: Path, *more: str) -> int:
    return cli.main(["replay", str(log), "--rules", str(rules), "--json", *more])


def test_input_without_a_single_event_is_wrong_use(
    tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no audit log does not end as if it had been searched and nothing found; its books are told."""
    log = tmp_path / "syslog"
    log.write_bytes(b"Jan  1 00:00:00 host sshd: hello\n" * 3)
    assert replay(log, rules, "--no-seal") == 2
    said = capsys.readouterr()
    books, error = said.err.splitlines()
    assert said.out == ""
    assert msgspec.json.decode(books)["rejected"] == 3
    assert "none of 3 lines is an audit event" in error


def test_one_event_among_broken_lines_is_a_replay(
    tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is broken is counted; what is whole is searched."""
    log = tmp_path / "log"
    log.write_bytes(b"broken\n" + LINE)
    assert replay(log, rules, "--no-seal") == 0
    said = capsys.readouterr()
    assert msgspec.json.decode(said.out)["rule"] == "every-delete"
    assert msgspec.json.decode(said.err)["rejected"] == 1


def test_nobody_who_reads_is_wrong_use(tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in which no operator looks at the log does not pass for one that found nothing."""
    log = tmp_path / "log"
    log.write_bytes(LINE)
    assert replay(log, rules, "--enable", "attestor") == 2
    assert "no enabled operator reads audit logs" in capsys.readouterr().err


def test_without_the_attestor_nothing_need_be_sealed(
    tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Books close by what was to be done: leaving the attestor out is leaving sealing out."""
    log = tmp_path / "log"
    log.write_bytes(LINE)
    assert replay(log, rules, "--enable", "audit-detection") == 0
    assert msgspec.json.decode(capsys.readouterr().err)["sealed"] == 0


def test_state_of_another_process_is_out_of_reach(
    tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lock is no wrong use: the same line will do once its holder has gone."""
    from ugallu.cluster.embedded.lock import hold

    log, state = tmp_path / "log", tmp_path / "s"
    log.write_bytes(LINE)
    state.mkdir()
    held = hold(state)
    assert replay(log, rules, "--state", str(state)) == 3
    assert "in use by pid" in capsys.readouterr().err
    held.release()
