"""`ugallu rules`: what it prints, what it exits with."""

import json
from pathlib import Path

import pytest

from ugallu.api.meta import Metadata, encode
from ugallu.api.sigma import SigmaRule
from ugallu.cli.main import main
from ugallu.testing.audit import audit_event
from ugallu.testing.correlations import correlation_spec, event_at
from ugallu.testing.rules import sigma_rule

EXAMPLES = Path(__file__).parents[3] / "examples"


def put(directory: Path, name: str, **changes: object) -> Path:
    path = directory / f"{name}.json"
    path.write_bytes(encode(sigma_rule(name, **changes)))
    return path


def one(expect: str) -> dict[str, object]:
    return {"name": "a read", "expect": expect, "event": audit_event()}


def test_all_tests_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table and a sum; exit 0. A rule without tests is named, not hidden."""
    put(tmp_path, "good", tests=[one("hit")])
    put(tmp_path, "untested")
    assert main(["rules", "test", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "good      a read      hit     ok" in out
    assert "(no tests)" in out
    assert "2 rules, 1 test: all pass; 1 rule without a test" in out


def test_a_failing_test_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it expected; exit 1."""
    put(tmp_path, "wrong", tests=[one("miss")])
    assert main(["rules", "test", str(tmp_path)]) == 1
    assert "test 'a read' expects a miss and got a hit" in capsys.readouterr().out


def test_a_rule_that_does_not_compile_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With file and field; exit 1, for it could not serve."""
    path = put(tmp_path, "broken", emit={"securityEventType": "Nothing", "severity": "low"})
    assert main(["rules", "test", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{path}:1: spec.emit.securityEventType: 'Nothing' is no event type" in out


def test_a_filter_that_may_not_hide_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a critical rule that it names without a word for it; no other file would help."""
    put(tmp_path, "grave", emit={"securityEventType": "ClusterAdminGranted", "severity": "critical"})
    (tmp_path / "known.yaml").write_text(
        "title: known\nlogsource: {product: kubernetes, service: audit}\n"
        "filter: {rules: [grave], s: {verb: get}, condition: not s}\n"
    )
    assert main(["rules", "test", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "only with owner, reason, expires and includeCritical: true" in out
    assert "name the files" not in out


def test_a_rule_that_cannot_match_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Be it for an empty list or for a field that no event has; a field beside others that do is a note."""
    put(tmp_path, "empty", match={"requestObjectGlob": [{"jsonPath": "$.kind", "patterns": []}]})
    upstream = "title: {0}\nlogsource: {{product: kubernetes, service: audit}}\ndetection: {{s: {1}, condition: s}}\n"
    (tmp_path / "typo.yaml").write_text(upstream.format("typo", "{verb: get, foo.bar: x}"))
    (tmp_path / "half.yaml").write_text(upstream.format("half", "[{verb: get}, {foo.bar: x}]"))
    assert main(["rules", "test", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "a list of patterns is empty" in out
    assert "no event can match, for none has: foo.bar" in out
    assert "note  no audit event has: foo.bar" in out
    assert "2 failed" in out


def test_a_file_that_cannot_be_read_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, the reason on stderr, and the other rules are tested all the same."""
    put(tmp_path, "good", tests=[one("hit")])
    (tmp_path / "bad.yaml").write_text("a: ]")
    assert main(["rules", "test", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "bad.yaml:1: no YAML" in captured.err
    assert "1 test: all pass" in captured.out
    assert main(["rules", "test", str(tmp_path / "nowhere")]) == 2


def test_json_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on stdout and nothing else there."""
    put(tmp_path, "good", tests=[one("hit"), one("miss")])
    assert main(["rules", "test", "--json", str(tmp_path)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["tests"], said["failed"]) == (2, 1)
    assert [test["passed"] for test in said["rules"][0]["tests"]] == [True, False]


def test_explain_says_what_a_rule_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conditions, requests, audit level, stages, limits, exceptions, examples."""
    glob = [{"jsonPath": "$.spec.hostPID", "patterns": ["true"]}]
    exception = {"name": "agents", "owner": "team-a", "reason": "node agents", "match": {"userGlob": ["agent"]}}
    path = put(
        tmp_path,
        "host-pid",
        match={"verb": ["create"], "objectRef": {"resource": ["pods"]}, "requestObjectGlob": glob},
        emit={"securityEventType": "HostPIDPod", "severity": "high"},
        tags=["attack.t1611"],
        suppress={"window": "10m", "exceptions": [exception]},
        tests=[{"name": "a reader", "expect": "miss", "event": audit_event()}],
    )
    assert main(["rules", "explain", str(path)]) == 0
    out = capsys.readouterr().out
    for said in (
        "host-pid",
        "HostPIDPod, high, Detection, T1611",
        "verbs create",
        "resources pods",
        "level     Request",
        "50 at once, then 5 a second",
        "actor and object are silent for 10m",
        "agents: node agents (team-a, for ever)",
        "miss  a reader",
    ):
        assert said in out


def test_explain_finds_a_rule_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Among files; a name that is nearly right gets a hint."""
    put(tmp_path, "first")
    put(tmp_path, "second")
    assert main(["rules", "explain", "second", "--rules", str(tmp_path), "--json"]) == 0
    assert [rule["rule"] for rule in json.loads(capsys.readouterr().out)["rules"]] == ["second"]
    assert main(["rules", "explain", "secnd", "--rules", str(tmp_path)]) == 2
    assert "did you mean second?" in capsys.readouterr().err
    assert main(["rules", "explain", "second"]) == 2
    assert "--rules" in capsys.readouterr().err


def test_list_shows_each_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Type, severity, whether it is on, the audit level it needs."""
    put(tmp_path, "on")
    put(tmp_path, "off", enabled=False)
    put(tmp_path, "broken", match={"requestObjectGlob": [{"jsonPath": "$..x", "patterns": ["*"]}]})
    assert main(["rules", "list", str(tmp_path)]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["on"][3:5] == ["on", "Metadata"]
    assert rows["off"][3] == "off"
    assert rows["broken"][3] == "error"


def test_the_rule_in_the_manual_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a newcomer copies from docs/rules.md passes its own tests."""
    manual = Path(__file__).parents[3] / "docs" / "rules.md"
    (tmp_path / "rule.yaml").write_text(manual.read_text().split("```yaml\n")[1].split("```")[0])
    assert main(["rules", "test", str(tmp_path)]) == 0
    assert "1 rule, 2 tests: all pass" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """`ugallu --help` must feel instant: the matcher is imported when a subcommand works."""
    import subprocess
    import sys

    code = (
        "import argparse, sys; from ugallu_audit_detection.commands import register;"
        "register(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(any(m in sys.modules for m in ('yaml', 're2', 'sigma', 'msgspec')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_coverage_names_what_a_policy_hides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blind rules first, each with the requests it misses; the status tells a script."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
    rules = str(EXAMPLES / "rules")
    assert main(["rules", "coverage", rules, "--audit-policy", str(policy)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert "cannot  host-namespaces  (needs Request)" in told
    assert told[0].startswith("cannot ")
    assert "          create pods: Metadata, needs Request" in told
    assert any(line.startswith("can     exec-by-workload") for line in told)
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n")
    assert main(["rules", "coverage", rules, "--audit-policy", str(policy), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cannot"], said["partly"]) == (0, 0)


def test_coverage_by_a_log_says_what_it_cannot_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule whose requests are not in the log is neither blind nor fine."""
    log = tmp_path / "audit.log"
    log.write_text('{"kind":"Event","level":"Metadata","verb":"create","stage":"ResponseComplete",'
                   '"objectRef":{"resource":"pods"},"user":{"username":"a"}}\n')  # fmt: skip
    assert main(["rules", "coverage", str(EXAMPLES / "rules"), "--audit-log", str(log)]) == 1
    told = capsys.readouterr().out
    assert "cannot  host-namespaces" in told
    assert "unseen  events-deleted" in told


def test_policy_writes_a_file_that_coverage_is_content_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one command writes the other one reads, and no example rule is blind under it."""
    rules, policy = str(EXAMPLES / "rules"), tmp_path / "policy.yaml"
    assert main(["rules", "policy", rules, "--audit-log", str(EXAMPLES / "audit.jsonl.gz")]) == 0
    written = capsys.readouterr().out
    assert "events and" in written.splitlines()[1]
    policy.write_text(written)
    assert main(["rules", "coverage", rules, "--audit-policy", str(policy)]) == 0


def test_coverage_needs_a_witness(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither policy nor log is wrong use, and says what to give."""
    assert main(["rules", "coverage"]) == 2
    assert "--audit-policy" in capsys.readouterr().err


LINKED = """\
title: Reads a pod
name: pod_reads
level: low
logsource: {product: kubernetes, service: audit}
detection: {selection: {verb: get, resource: pods}, condition: selection}
---
title: Many pods
level: high
correlation:
  type: value_count
  rules: [RULE]
  group-by: [user.username]
  timespan: 5m
  condition: {gte: 3, field: objectRef.name}
---
title: Backup
logsource: {product: kubernetes, service: audit}
filter: {rules: any, known: {user.username: backup}, condition: not known}
"""


def test_correlations_and_filters_are_listed_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words: what they count or hide, and that a correlation silences its rules."""
    path = tmp_path / "linked.yml"
    path.write_text(LINKED.replace("RULE", "pod_reads"))
    assert main(["rules", "test", str(path)]) == 0
    assert main(["rules", "list", str(path)]) == 0
    assert "sigma-backup     (a filter)         -" in capsys.readouterr().out
    assert main(["rules", "explain", str(path)]) == 0
    out = capsys.readouterr().out
    assert ">= 3 different values of objectRef.name within 5m with the same user.username, over pod_reads" in out
    assert "counts    sigma-pod-reads" in out
    assert "(generate: false)" in out
    assert "user.username is backup" in out
    assert f"sigma-many-pods  ({path}:7)" in out


def test_a_correlation_without_its_rules_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tests cannot run; exit 1, and what to do."""
    path = tmp_path / "linked.yml"
    path.write_text(LINKED.replace("RULE", "elsewhere"))
    assert main(["rules", "test", str(path)]) == 1
    assert "no rule that serves is called elsewhere; name the files of its rules too" in capsys.readouterr().out


def test_the_tests_of_a_correlation_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over the rules that the same paths hold."""
    put(tmp_path, "pod-read")
    events = [event_at(n) for n in range(3)]
    tests = [{"name": "three reads", "expect": "hit", "before": events[:2], "event": events[2]}]
    (tmp_path / "it.json").write_bytes(
        encode(SigmaRule(metadata=Metadata(name="it"), spec=correlation_spec({"tests": tests})))
    )
    assert main(["rules", "test", str(tmp_path)]) == 0
    assert "three reads  hit     ok" in capsys.readouterr().out
