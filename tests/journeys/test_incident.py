"""The recorded incident against the example pack: every step is found, and what else fires can say why."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

STEPS: list[set[str]] = [
    {"anonymous-probing"},
    {"workload-asks-its-rights"},
    {"denied-enumeration"},
    {"secret-read-by-workload"},
    {"exec-by-workload"},
    {"cluster-admin-granted"},
    {"powerful-token-request"},
    {"impersonation-of-masters"},
    {"namespace-psa-weakened", "privileged-pod", "host-root-mounted"},
    {"workload-in-kube-system"},
    {"webhook-fail-open"},
    {"long-lived-token"},
    {"port-forward-by-workload"},
    {"events-deleted"},
]
EXPLAINED = {("cluster-admin-granted", "2026-11-25T01:00:31Z")}
"""docs/incident.md, "What else fires": the set-up's own grant of cluster-admin."""


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def findings(piped: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = piped.findings
    return found


@pytest.fixture(scope="module")
def truth() -> list[dict[str, str]]:
    return [json.loads(line) for line in (EXAMPLES / "truth.jsonl").read_text().splitlines()]


def test_every_step_of_the_attack_is_found(findings: list[dict[str, Any]], truth: list[dict[str, str]]) -> None:
    """Each of the 14 steps has a finding of each rule that stands for it, between its start and its end."""
    ends = [moment(step["time"]) for step in truth[1:]] + [moment(truth[-1]["time"]) + dt.timedelta(seconds=6)]
    slack = dt.timedelta(seconds=1)
    for step, end, rules in zip(truth, ends, STEPS, strict=True):
        seen = {
            found["rule"]
            for found in findings
            if moment(step["time"]) - slack <= moment(found["detectedAt"]) <= end + slack
        }
        assert rules <= seen, f"{step['step']}: {rules - seen} stayed silent"


def test_ordinary_life_stays_silent(findings: list[dict[str, Any]], truth: list[dict[str, str]]) -> None:
    """Outside the attack only what the story explains fires."""
    begin = moment(truth[0]["time"]) - dt.timedelta(seconds=1)
    end = moment(truth[-1]["time"]) + dt.timedelta(seconds=6)
    outside = {
        (found["rule"], found["detectedAt"]) for found in findings if not begin <= moment(found["detectedAt"]) <= end
    }
    assert outside == EXPLAINED
