"""The whole way on a real cluster: installed with kubectl, fed by the API server's log and its webhook at once, looked at with kubectl."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import yaml

from tests.rig import image
from tests.rig.cluster import AuditWebhook, Options
from tests.rig.ground import wait
from tests.rig.intruder import EXPECTED, attack
from tests.rig.node import Node
from ugallu.cluster.kubernetes.auth import from_kubeconfig
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.pods import Target
from ugallu.cluster.port import InvalidError, UnavailableError
from ugallu.metrics import read

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
TOKEN: Final = "0123456789abcdef0123456789abcdef"
SYSTEM: Final = "ugallu-system"
PRIVILEGED: Final = "ugallu-system-privileged"
READERS: Final = ((SYSTEM, "audit-webhook"), (PRIVILEGED, "audit-file"))
PODS: Final = (*READERS, (SYSTEM, "attestor"))
RULES: Final = ROOT / "examples" / "rules"


class Audited(Node):
    """Its API server writes the log where the control plane of a real cluster has it, and posts to a Service of ours."""

    def _write_keys(self) -> None:
        super()._write_keys()
        # An API server resolves no names of Services: it is told the address, chosen before there is a Service.
        self.webhook = f"{self.services.rpartition('.')[0]}.50"
        self.webhook_pair = self._authority.issue("audit-webhook", "ugallu", hosts=[self.webhook])
        self.log = self.state / "var" / "log" / "kubernetes" / "audit" / "audit.log"
        self.log.parent.mkdir(parents=True)
        self.options = replace(
            self.options,
            audit_webhook=AuditWebhook(f"https://{self.webhook}/v1/audit", self.ca, TOKEN),
            flags={"kube-apiserver": [f"--audit-log-path={self.log}"]},
        )

    def volume(self, name: str) -> dict[str, Any]:
        """A volume that a Pod without rights may write to, as a cluster's storage would hand it out."""
        folder = self.state / "var" / "log" / name
        folder.mkdir()
        folder.chmod(0o777)
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "8Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": f"/var/log/{name}"},
            },
        }

    def secrets(self) -> Iterator[dict[str, Any]]:
        """What whoever installs it brings: the webhook's certificate and its token."""
        pair = self.webhook_pair
        contents = {
            "ugallu-audit-webhook-tls": {"tls.crt": pair.certificate.read_text(), "tls.key": pair.key.read_text()},
            "ugallu-audit-webhook-token": {"token": TOKEN},
        }
        for name, content in contents.items():
            metadata = {"name": name, "namespace": SYSTEM}
            yield {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content}


def installation(node: Audited, folder: Path) -> Path:
    """The overlay `standard` with the log's reader beside the webhook, on an API server with an unusual port."""
    there = Path(os.path.relpath(ROOT / "manifests", folder))
    name, _, tag = image.NAME.partition(":")
    port = {"op": "add", "path": "/spec/egress/0/ports/-", "value": {"protocol": "TCP", "port": node.port}}
    address = {"op": "add", "path": "/spec/clusterIP", "value": node.webhook}
    listing = {
        "resources": [str(there / "overlays" / "standard")],
        "components": [str(there / "components" / "audit-file")],
        "images": [{"name": "ugallu", "newName": name, "newTag": tag}],
        "patches": [
            {"target": {"kind": "NetworkPolicy", "name": "ugallu-api-server"}, "patch": yaml.safe_dump([port])},
            {"target": {"kind": "Service", "name": ".*-webhook"}, "patch": yaml.safe_dump([address])},
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listing))
    return folder


@dataclass
class Installed:
    node: Audited

    def pod(self, namespace: str, component: str) -> dict[str, Any]:
        """The Pod of a component, once it is ready; before, nothing."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        listed = self.node.kubectl("get", "pods", "-n", namespace, selector, "--output=json")
        for pod in json.loads(listed)["items"]:
            conditions = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", [])}
            if conditions.get("Ready") == "True":
                found: dict[str, Any] = pod
                return found
        return {}

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.node.kubectl("get", "securityevents", "-o", "json"))["items"]
        return found

    def settled(self) -> bool:
        """Whether the attack was found and every event sealed."""
        events = self.events()
        return {event["spec"]["type"] for event in events} >= EXPECTED and all(
            event.get("status", {}).get("phase") == "Attested" for event in events
        )

    def fetch(self, namespace: str, component: str, port: int, path: str) -> bytes:
        """What a Pod has at a port and path; our own network policies keep this machine away from it."""
        target = Target(namespace, self.pod(namespace, component)["metadata"]["name"])

        async def fetched() -> bytes:
            cluster = await KubernetesCluster.open(from_kubeconfig(self.node.kubeconfig))
            try:
                return await cluster.fetch_from_pod(target, port, path)
            finally:
                await cluster.close()

        return anyio.run(fetched)

    def measured(self, namespace: str, component: str, metric: str, label: str) -> dict[str, float]:
        """What a Pod's own metrics say, by the values of one label."""
        told = self.fetch(namespace, component, 9090, "/metrics").decode()
        return {labels[label]: value for name, labels, value in read(told) if name == metric}

    def matches(self, reader: tuple[str, str]) -> dict[str, float]:
        """How often each rule matched at a reader."""
        return self.measured(*reader, "ugallu_audit_rule_matches_total", "rule")

    def armed(self, rules: int) -> bool:
        """Whether both readers have so many rules at work."""
        return all(self.measured(*one, "ugallu_audit_rules", "state").get("serving") == rules for one in READERS)

    def said(self) -> str:
        """What kubectl tells of Pods that do not get on."""
        told = [
            self.node.kubectl("get", "pods,events", "-n", SYSTEM),
            self.node.kubectl("get", "pods,events", "-n", PRIVILEGED),
        ]
        for namespace, component in PODS:
            selector = f"--selector=app.kubernetes.io/component={component}"
            told.append(self.node.kubectl("logs", "-n", namespace, selector, "--tail=15", "--ignore-errors"))
        return "\n".join(told)


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with Audited(Options()) as node:
        node.load(archive)
        node.kubectl("label", "node", node.name, "node-role.kubernetes.io/control-plane=")
        node.apply(node.volume("one"), node.volume("two"))
        node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}, *node.secrets())
        folder = installation(node, tmp_path_factory.mktemp("installation"))
        node.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
        at = Installed(node)
        wait("every Pod ready", lambda: all(at.pod(*one) for one in PODS), 120, hint=at.said)
        # What the two see before they have rules is not the same: one was there before the other.
        node.kubectl("apply", "--server-side", "-f", str(RULES))
        wait("every rule at work", lambda: at.armed(len(list(RULES.glob("*.yaml")))), 60, hint=at.said)
        node.kubectl("create", "namespace", "shop")
        attack(node, "shop")
        wait("the attack found and sealed", at.settled, 90, hint=at.said)
        yield at


def test_log_and_webhook_find_the_same_and_tell_it_once(installed: Installed) -> None:
    """Two readers with neither state nor stream in common; each rule matched as often, and no event stands there twice."""

    def agree() -> bool:
        posted, read_there = (installed.matches(reader) for reader in READERS)
        return bool(posted) and posted == read_there

    wait("both readers to have seen the same", agree, 30, hint=installed.said)
    told = Counter(
        (signals["rule"], signals["audit.id"])
        for event in installed.events()
        if "rule" in (signals := event["spec"]["signals"])
    )
    assert [fact for fact, times in told.items() if times > 1] == []


def test_kubectl_is_the_dashboard(installed: Installed) -> None:
    """`kubectl get securityevents` shows who did what to whom, how bad it is, and that it is proven."""
    lines = installed.node.kubectl("get", "securityevents").splitlines()
    assert any({"ClusterAdminGranted", "critical", "Attested", "web"} <= set(line.split()) for line in lines)


def test_doctor_has_nothing_to_mend(installed: Installed) -> None:
    """From outside, with the cluster's administrator: server, kinds, policies, rights, Leases, Pods and both streams are well."""

    def booked() -> bool:
        return all(installed.measured(*reader, "ugallu_books_events", "account") for reader in READERS)

    # A process looks at its books every half minute.
    wait("books of both readers", booked, 60, hint=installed.said)
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "doctor", "--kubeconfig", str(installed.node.kubeconfig), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    bad = {name: check for name, check in checks.items() if check["verdict"] != "ok"}
    # Before there was a Pod to post to, this API server gave events up, and says so: that is no fault of ours to hide.
    assert "by its webhook backend" in bad.pop("API server's audit", {"detail": "by its webhook backend"})["detail"]
    assert (bad, done.returncode) == ({}, 0)
    assert sum(name.startswith("books of ") and "audit-" in name.partition(": ")[2] for name in checks) == 2
    assert sum(name.startswith("audit stream of ") for name in checks) == 2
    assert {"rights of attestor", "rights of audit-detection", "lease ugallu-attestor-leader"} <= set(checks)


@pytest.mark.parametrize(("namespace", "component"), PODS)
def test_nothing_was_started_twice(installed: Installed, namespace: str, component: str) -> None:
    """A Pod that dies of something comes back and looks well: its restarts tell."""
    statuses = installed.pod(namespace, component)["status"]["containerStatuses"]
    assert [status["restartCount"] for status in statuses] == [0]


def test_why_a_port_has_no_answer_is_said(installed: Installed) -> None:
    """A port where nobody listens, and a path that is not there, are told apart, each with the Pod's name."""
    with pytest.raises(UnavailableError, match=r"ugallu-attestor.*:9: .*refused"):
        installed.fetch(*PODS[2], 9, "/")
    with pytest.raises(InvalidError, match=r"ugallu-attestor.*:9090/none: answered with 404"):
        installed.fetch(*PODS[2], 9090, "/none")
