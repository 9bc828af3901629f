"""The forecast of `ugallu rules policy` against a real API server: what it says would be written is what is written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.cluster import ApiServer, Options

pytestmark = pytest.mark.real

EVERYTHING = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitManagedFields": True,
    "rules": [{"level": "RequestResponse"}],
}
BYTES_OFF = 0.05
"""Of what a forecast may be off: times and ids differ in length from one run to the next."""


def traffic(api: ApiServer, namespace: str) -> None:
    """What somebody called `builder` does: writes with bodies, reads, a refusal, a secret, requests for no object."""
    builder = api.kubeconfig_for("builder", ["system:masters"])
    stranger = api.kubeconfig_for("builder-without-rights")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"hostPID": True, "containers": [{"name": "c", "image": "busybox:1"}]},
            },
        },
    }
    api.kubectl("create", "-f", "-", stdin=json.dumps(deployment), kubeconfig=builder)
    api.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", kubeconfig=builder)
    api.kubectl("create", "secret", "generic", "s", "--from-literal=k=v", "-n", namespace, kubeconfig=builder)
    api.kubectl("get", "secrets", "-n", namespace, kubeconfig=builder)
    api.kubectl("get", "--raw", "/version", kubeconfig=builder)
    with pytest.raises(Exception, match="forbidden"):
        api.kubectl("get", "nodes", kubeconfig=stranger)
    api.kubectl("delete", "deployment", "web", "-n", namespace, kubeconfig=builder)


def written(events: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """The events of this traffic, by what they are about, without kubectl's own look around."""
    return [
        event
        for event in events
        if event["user"].get("username", "").startswith("builder")
        and (namespace in event["requestURI"] or event["requestURI"].startswith(("/version", "/api/v1/nodes")))
    ]


def told(events: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return sorted(
        (event["verb"], event.get("objectRef", {}).get("resource", ""), event["stage"], event["level"],
         "request" if "requestObject" in event else "", "response" if "responseObject" in event else "")
        for event in events
    )  # fmt: skip


def test_a_forecast_comes_true(tmp_path: Path) -> None:
    """Recorded with everything on, forecast for the policy of the default rules, and done again under that policy."""
    policy, recording = tmp_path / "policy.yaml", tmp_path / "recorded.jsonl"
    policy.write_text(yaml.safe_dump(EVERYTHING))
    with ApiServer(Options(audit_policy=policy)) as api:
        api.kubectl("create", "namespace", "aa")
        traffic(api, "aa")
        recording.write_text(
            "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in written(api.audit(), "aa"))
        )
        command = [sys.executable, "-m", "ugallu", "rules", "policy", "--audit-log", str(recording), "--json"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        policy.write_text(yaml.safe_dump(said["policy"]))
        api.restart()
        api.kubectl("create", "namespace", "bb")
        before = len(api.audit())
        traffic(api, "bb")
        found = written(api.audit()[before:], "bb")
    size = sum(len(json.dumps(event, separators=(",", ":"))) + 1 for event in found)
    assert (len(found), said["forecast"]["shallow"]) == (said["forecast"]["events"], 0), told(found)
    assert abs(size - said["forecast"]["bytes"]) / size < BYTES_OFF
    secret = [event for event in found if event.get("objectRef", {}).get("resource") == "secrets"]
    assert {event["level"] for event in secret} == {"Metadata"}
    # What the forecast leaves at Request is seen with its body, as the rules need it.
    (made,) = [event for event in found if event["requestURI"].partition("?")[0].endswith("/deployments")]
    assert made["requestObject"]["spec"]["template"]["spec"]["hostPID"] is True
