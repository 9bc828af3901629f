"""The default rules as objects of a real API server: admitted, changed without being edited, upgraded, armed by who reads them."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.rig.cluster import ApiServer
from tests.rig.ground import Process, wait
from ugallu_audit_detection import pack

pytestmark = pytest.mark.real

ROOT: Final = Path(__file__).parents[2]
POLICY: Final = ROOT / "manifests" / "policies" / "sigma-rule-spec.yaml"
RULES: Final = "/apis/security.ugallu.io/v1alpha1/sigmarules"
OURS: Final = "ugallu.io/rule-pack=default"
RETIRED: Final = {
    "apiVersion": "security.ugallu.io/v1alpha1",
    "kind": "SigmaRule",
    "metadata": {"name": "ugallu-retired", "labels": {"ugallu.io/rule-pack": "default"}},
    "spec": {
        "match": {"verb": ["get"]},
        "emit": {"securityEventType": "KubernetesAPICall", "severity": "low"},
    },
}
BAD: Final = {
    **RETIRED,
    "metadata": {"name": "refused"},
    "spec": {
        "match": {"objectRef": {"nameGlob": ["*" * 9]}},
        "emit": {"securityEventType": "KubernetesAPICall", "severity": "low"},
    },
}


@pytest.fixture
def guarded(api: ApiServer) -> Iterator[ApiServer]:
    """The session's API server with our kinds and the policy on rules; both rules and policy are gone afterwards."""
    api.serve_kinds()
    api.kubectl("apply", "--server-side", "-f", str(POLICY))
    try:
        api.wait("the policy in force", lambda: refused(api, BAD))
        yield api
    finally:
        api.request("DELETE", RULES)
        api.kubectl("delete", "-f", str(POLICY))


def refused(api: ApiServer, rule: dict[str, Any]) -> bool:
    status, answer = api.request("POST", f"{RULES}?dryRun=All", rule)
    return status == 422 and b"ugallu.sigma-rule-spec" in answer


def overrides() -> list[dict[str, Any]]:
    """What docs/rules/pack.md tells users to write."""
    page = (ROOT / "docs" / "rules" / "pack.md").read_text()
    (example,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Kustomization" in text]
    patches: list[dict[str, Any]] = yaml.safe_load(example)["patches"]
    return patches


def folder(place: Path, *patches: dict[str, Any], resources: tuple[str, ...] = ()) -> str:
    """A user's own folder over the pack as it is."""
    place.mkdir(exist_ok=True)
    overlay = os.path.relpath(ROOT / "manifests" / "overlays" / "rule-pack", place)
    listing = {"resources": [overlay, *resources], "patches": [*overrides(), *patches]}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(listing))
    return str(place)


def found(api: ApiServer) -> dict[str, dict[str, Any]]:
    listed = json.loads(api.kubectl("get", "sigmarules", "-o", "json"))["items"]
    return {rule["metadata"]["name"]: rule for rule in listed}


def names(api: ApiServer, selector: str) -> list[str]:
    return api.kubectl("get", "sigmarules", "-l", selector, "-o", "name").split()


def unarmed(api: ApiServer) -> list[str]:
    """Rules that do not say that they compile and pass their tests."""
    return [
        name
        for name, rule in found(api).items()
        if not {"Compiled", "Tested"}
        <= {each["type"] for each in rule.get("status", {}).get("conditions", ()) if each["status"] == "True"}
        and rule["metadata"]["labels"][pack.LABEL_VERSION] == pack.VERSION
    ]


def test_the_pack_is_installed_changed_upgraded_and_armed(guarded: ApiServer, tmp_path: Path) -> None:
    """All rules pass kinds and policy; what a user changed by patches stays changed by the next version.

    What that one no longer has is listed by the page's own selector; and a process that reads them arms all.
    """
    older = {
        "target": {"kind": "SigmaRule", "labelSelector": OURS},
        "patch": json.dumps(
            [{"op": "add", "path": f"/metadata/labels/{pack.LABEL_VERSION.replace('/', '~1')}", "value": "0"}]
        ),
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "retired.yaml").write_text(yaml.safe_dump(RETIRED))
    old = folder(tmp_path / "old", older, resources=("retired.yaml",))
    new = folder(tmp_path / "new")
    every = [rule.metadata.name for rule in pack.rules()]

    guarded.kubectl("apply", "--server-side", "-k", old)
    assert sorted(found(guarded)) == sorted([*every, "ugallu-retired"])
    assert len(names(guarded, f"{pack.LABEL_VERSION}=0")) == len(every) + 1

    guarded.kubectl("apply", "--server-side", "-k", new)
    rules = found(guarded)
    assert names(guarded, f"{OURS},{pack.LABEL_VERSION}!={pack.VERSION}") == [
        "sigmarule.security.ugallu.io/ugallu-retired"
    ]
    assert rules["ugallu-port-forward-opened"]["spec"]["enabled"] is False
    assert rules["ugallu-latest-image-tag"]["spec"]["emit"]["severity"] == "medium"
    (exception,) = rules["ugallu-host-path-mount"]["spec"]["suppress"]["exceptions"]
    assert (exception["name"], exception["owner"]) == ("log-shipper", "team-observability")

    assert refused(guarded, BAD)

    command = [
        sys.executable, "-m", "ugallu", "run", "--kubeconfig", str(guarded.kubeconfig), "--enable", "audit-detection",
        "--state", str(tmp_path / "state"), "--health", "", "--metrics", "", "--log-format", "json",
    ]  # fmt: skip
    process = Process("ugallu", command, tmp_path / "ugallu.log", guarded.environ)
    process.start()
    try:
        wait("every rule armed", lambda: not unarmed(guarded), hint=lambda: f"{unarmed(guarded)}\n{process.tail()}")
    finally:
        process.stop()
