"""What we ship, as users install it: built by kubectl, applied to a real API server, upgraded, taken away again."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.cluster import ApiServer, ControlPlane
from tests.rig.ground import RigError
from ugallu.api.kinds import KINDS
from ugallu.api.meta import API_VERSION
from ugallu.supervisor.registry import installed

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("local", "standard", "hardened")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
GIVEN = {("ConfigMap", "kube-root-ca.crt")}
"""What a cluster has in every namespace."""
USERS = {("Secret", name) for line in installed().values() for name in line.load().workload.secrets}
"""What a user brings, as operators declare it; Pods start without."""

Document = dict[str, Any]


def built(api: ApiServer, folder: Path) -> list[Document]:
    return list(yaml.safe_load_all(api.kubectl("kustomize", str(folder))))


def installation(tmp_path: Path, overlay: str, *components: str, **more: Any) -> Path:
    """An installation of a user's own: an overlay and what is optional."""
    there = Path(os.path.relpath(ROOT, tmp_path))
    listing = {
        "resources": [str(there / "overlays" / overlay)],
        "components": [str(there / "components" / name) for name in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({**listing, **more}))
    return tmp_path


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_overlay_is_whole(api: ApiServer, overlay: str) -> None:
    """Every object once, in a namespace that exists, with our labels; whatever one refers to is there."""
    documents = built(api, ROOT / "overlays" / overlay)
    keys = [(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in documents]
    assert len(keys) == len(set(keys))
    assert keys[0][0] == "Namespace", "what lies in a namespace comes after it"
    namespaces = {name for kind, _, name in keys if kind == "Namespace"}
    assert {namespace for _, namespace, _ in keys} <= {"", *namespaces}
    for document in documents:
        labels = document["metadata"]["labels"]
        assert {f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of", "managed-by", "version")} <= {
            *labels
        }
    roles = {(kind, namespace, name) for kind, namespace, name in keys if kind in ("Role", "ClusterRole")}
    for document in documents:
        if document["kind"].endswith("RoleBinding") or document["kind"] == "ClusterRoleBinding":
            ref, home = document["roleRef"], document["metadata"].get("namespace", "")
            assert (ref["kind"], home, ref["name"]) in roles
            for subject in document["subjects"]:
                assert ("ServiceAccount", subject["namespace"], subject["name"]) in keys
        if document["kind"] in WORKLOADS:
            check_references(document, set(keys))


def check_references(workload: Document, keys: set[tuple[str, str, str]]) -> None:
    namespace, pod = workload["metadata"]["namespace"], workload["spec"]["template"]["spec"]
    assert ("ServiceAccount", namespace, pod["serviceAccountName"]) in keys
    assert ("PriorityClass", "", pod["priorityClassName"]) in keys
    if "serviceName" in workload["spec"]:
        assert ("Service", namespace, workload["spec"]["serviceName"]) in keys
    wanted = set()
    for volume in pod["volumes"]:
        if "secret" in volume:
            wanted.add(("Secret", volume["secret"]["secretName"]))
            assert volume["secret"]["optional"]
        if "persistentVolumeClaim" in volume:
            wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for source in volume.get("projected", {}).get("sources", []):
            if "configMap" in source:
                wanted.add(("ConfigMap", source["configMap"]["name"]))
    assert {(kind, name) for kind, name in wanted - GIVEN - USERS if (kind, namespace, name) not in keys} == set()
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_every_pod_is_hardened(api: ApiServer, overlay: str) -> None:
    """No root, no capability, nothing to write but volumes with a bound, no token unasked, from one image."""
    workloads = [d for d in built(api, ROOT / "overlays" / overlay) if d["kind"] in WORKLOADS]
    images = set()
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == security["fsGroup"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        }
        assert {"cpu", "memory"} <= {*container["resources"]["requests"]}
        assert "memory" in container["resources"]["limits"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= {*container}
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)
        sources = [s for volume in pod["volumes"] for s in volume.get("projected", {}).get("sources", [])]
        tokens = [s["serviceAccountToken"] for s in sources if "serviceAccountToken" in s]
        assert [token["expirationSeconds"] for token in tokens] == [1800] * len(tokens)
        assert [token.get("audience", "") for token in tokens].count("") == 1, "one for the API server"
        if workload["spec"]["replicas"] > 1:
            assert pod["topologySpreadConstraints"]
    assert len(images) == 1
    assert re.fullmatch(r"ugallu:\d+\.\d+\.\d+", images.pop())


def test_the_image_is_named_once(api: ApiServer, tmp_path: Path) -> None:
    """Whoever has an image of their own says so in one place, whatever the overlay runs."""
    mine = [{"name": "ugallu", "newName": "example.com/mine", "newTag": "7"}]
    images = {
        container["image"]
        for document in built(api, installation(tmp_path, "hardened", "audit-file", images=mine))
        if document["kind"] in WORKLOADS
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"example.com/mine:7"}


def test_the_values_of_a_policy_change_as_its_page_says(api: ApiServer, tmp_path: Path) -> None:
    """The patch of docs/policies.md, as it stands there: one variable is another, all else is as it was."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT.parent / "docs" / "policies.md").read_text(), re.DOTALL)
    mine = installation(tmp_path, "standard", patches=yaml.safe_load(example)["patches"])
    changed = built(api, mine)
    before = built(api, ROOT / "overlays" / "standard")
    ((old, new),) = [(old, new) for old, new in zip(before, changed, strict=True) if old != new]
    differing = [
        (was["name"], now["expression"])
        for was, now in zip(old["spec"].pop("variables"), new["spec"].pop("variables"), strict=True)
        if was != now
    ]
    assert old == new
    assert differing == [("ackAuthorizedSAs", "['alice@example.com', 'system:serviceaccount:soc:responder']")]


def test_hardened_is_doubled_and_keeps_no_evidence_in_a_pod(api: ApiServer) -> None:
    """Two replicas, a budget for each, and sealing only where evidence outlives them."""
    documents = built(api, ROOT / "overlays" / "hardened")
    workloads = {d["metadata"]["name"]: d for d in documents if d["kind"] in WORKLOADS}
    budgets = {d["metadata"]["name"] for d in documents if d["kind"] == "PodDisruptionBudget"}
    assert {name: d["spec"]["replicas"] for name, d in workloads.items()} == dict.fromkeys(budgets, 2)
    for workload in workloads.values():
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert "UGALLU_EVIDENCE" not in {entry["name"] for entry in container["env"]}
    policies = api.kubectl("kustomize", str(ROOT / "overlays" / "hardened"))
    standard = api.kubectl("kustomize", str(ROOT / "overlays" / "standard"))
    assert policies.count("10.0.0.0/8") > 0 == standard.count("10.0.0.0/8")


def test_a_log_that_is_read_as_a_file_needs_no_receiver(api: ApiServer, overlay: str, tmp_path: Path) -> None:
    """After `components/file-only` nothing waits for the webhook's Secrets, nothing serves or may do what only it needs."""
    mine = [{"name": "ugallu", "newName": "example.com/mine", "newTag": "7"}]
    documents = built(api, installation(tmp_path, overlay, "audit-file", "file-only", images=mine))
    keys = [(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in documents]
    workloads = [d for d in documents if d["kind"] in WORKLOADS]
    for workload in workloads:
        check_references(workload, set(keys))
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "example.com/mine:7"
        assert "UGALLU_AUDIT_WEBHOOK_LISTEN" not in {entry["name"] for entry in container["env"]}
    # One reads the log, and what it reads with is its own.
    readers = [d for d in workloads if "audit-detection" in d["spec"]["template"]["spec"]["containers"][0]["args"][2]]
    assert [(d["kind"], d["metadata"]["namespace"]) for d in readers] == [("DaemonSet", "ugallu-system-privileged")]
    rules = [(d, rule) for d in documents if d["kind"] == "ClusterRole" for rule in d["rules"]]
    may = {d["metadata"]["name"] for d, rule in rules if "sigmarules/status" in rule.get("resources", ())}
    assert may == {"ugallu-audit-detection-file"}
    named = {name for kind, namespace, name in keys if kind == "Service" and namespace == "ugallu-system"}
    assert not {name for name in named if name.startswith("ugallu-audit-detection")}
    used = {d["metadata"]["name"] for d in workloads} | {"ugallu-audit-detection"}
    assert {name for kind, _, name in keys if kind == "ServiceAccount"} <= used


def test_without_volumes_the_state_is_the_pods(api: ApiServer, tmp_path: Path) -> None:
    """`components/ephemeral` takes the claim away and leaves a bounded directory of the Pod."""
    documents = built(api, installation(tmp_path, "local", "ephemeral"))
    assert not [d for d in documents if d["kind"] == "PersistentVolumeClaim"]
    (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
    (state,) = [v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "state"]
    assert state == {"name": "state", "emptyDir": {"sizeLimit": "4Gi"}}


# What follows installs and uninstalls: on a cluster of its own, one overlay after the other.


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        yield started


EVENT: Document = {
    "apiVersion": API_VERSION,
    "kind": "SecurityEvent",
    "metadata": {"name": "se-1"},
    "spec": {
        "class": "Detection",
        "type": "ClusterAdminGranted",
        "severity": "critical",
        "clusterIdentity": {"clusterName": "a", "clusterID": "b"},
        "source": {"kind": "test", "name": "test"},
        "subject": {"kind": "Pod", "name": "web", "namespace": "shop", "unresolved": True},
        "detectedAt": "2026-01-01T00:00:00Z",
    },
}


def ours(cluster: ControlPlane) -> list[str]:
    """Everything in the cluster that has our name in its own, whatever its kind."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    passing = {"events", "events.events.k8s.io"}
    asked = ",".join(kind for kind in kinds if kind not in passing)
    listed = cluster.kubectl("get", asked, "-A", "--ignore-not-found", "--no-headers", "-o", "name")
    return [name for name in listed.split() if "ugallu" in name]


def install(cluster: ControlPlane, folder: Path) -> None:
    cluster.kubectl("apply", "--server-side", "-k", str(folder))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def uninstall(cluster: ControlPlane, folder: Path) -> None:
    """As docs/install.md says: look at what there is first. A server that has never listed a kind may stay behind.

    (crd_finalizer.go fails once on storage that is not warm, and a conflict with its own status makes it forget the
    retry until the next resync, five minutes later.)
    """
    kinds = cluster.kubectl("api-resources", "--api-group=security.ugallu.io", "-o", "name").split()
    cluster.kubectl("get", ",".join(kinds), "-A")
    cluster.kubectl("delete", "--ignore-not-found", "-k", str(folder), "--timeout=90s")
    cluster.wait("everything gone", lambda: not ours(cluster), 60)


def pods(cluster: ControlPlane, component: str) -> list[str]:
    label = f"app.kubernetes.io/component={component}"
    return cluster.kubectl("get", "pods", "-A", "-l", label, "-o", "name").split()


def refusals(cluster: ControlPlane) -> list[str]:
    """What controllers say of Pods that they were not allowed to create."""
    return [line for line in cluster.kubectl("get", "events", "-A").splitlines() if "FailedCreate" in line]


def test_an_overlay_installs_upgrades_and_leaves_nothing_behind(cluster: ControlPlane, overlay: str) -> None:
    """Applied once it is all there and Pods are admitted; a second apply would change nothing; deleted, nothing is left."""
    folder = ROOT / "overlays" / overlay
    assert ours(cluster) == []
    install(cluster, folder)
    kinds = cluster.kubectl("api-resources", "--api-group=security.ugallu.io", "-o", "name").split()
    assert set(kinds) == {f"{kind.kind_info.plural}.{kind.kind_info.group}" for kind in KINDS}
    for document in built(cluster, folder):
        if document["kind"] in WORKLOADS:
            component = document["metadata"]["labels"]["app.kubernetes.io/component"]
            cluster.wait(f"Pods of {component}", lambda asked=component: pods(cluster, asked), 30)  # type: ignore[misc]
    assert refusals(cluster) == []

    cluster.apply(EVENT)
    head, line = cluster.kubectl("get", "securityevents").splitlines()
    assert head.split() == ["NAME", "CLASS", "TYPE", "SEVERITY", "PHASE", "SUBJECT", "AGE"]
    assert line.split()[:5] == ["se-1", "Detection", "ClusterAdminGranted", "critical", "web"]
    if overlay == "hardened":
        with pytest.raises(RigError, match="ugallu"):
            cluster.kubectl("delete", "securityevent", "se-1")

    cluster.kubectl("apply", "--server-side", "-f", str(ROOT.parent / "examples" / "rules"))
    assert cluster.kubectl("diff", "--server-side", "-k", str(folder)) == ""
    uninstall(cluster, folder)


def test_the_audit_log_is_read_on_the_control_plane(cluster: ControlPlane, tmp_path: Path) -> None:
    """A Pod on each node of the control plane whatever the label's value, and on no other; beside the webhook, and what reads its bus."""
    folder = installation(tmp_path, "standard", "audit-file", "ingest")
    label = {"node-role.kubernetes.io/control-plane": "true"}
    taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    nodes: list[Document] = [
        {"metadata": {"name": "control", "labels": label}, "spec": {"taints": [taint]}},
        {"metadata": {"name": "worker"}},
    ]
    for node in nodes:
        cluster.create("/api/v1/nodes", node)
    try:
        install(cluster, folder)
        (pod,) = cluster.wait("a Pod for the log", lambda: pods(cluster, "audit-file"), 30)
        cluster.wait("a Pod for the bus", lambda: pods(cluster, "ingest"), 30)
        found = json.loads(cluster.kubectl("get", pod, "-n", "ugallu-system-privileged", "-o", "json"))
        (term,) = found["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term["matchFields"][0]["values"] == ["control"]
        assert refusals(cluster) == []
    finally:
        # No kubelet ends these Pods.
        cluster.kubectl("delete", "daemonsets,statefulsets,deployments", "--all", "-n", "ugallu-system-privileged")
        cluster.kubectl("delete", "pods", "--all", "--force", "-n", "ugallu-system-privileged")
        cluster.kubectl("delete", "nodes", "control", "worker")
        uninstall(cluster, folder)


def told(section: str, folder: Path) -> list[list[str]]:
    """The commands of each block in a section of docs/install.md, for this folder."""
    text = (ROOT.parent / "docs" / "install.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [[line.strip().replace("FOLDER", str(folder)) for line in block.splitlines()] for block in blocks]


def run(cluster: ControlPlane, lines: list[str]) -> None:
    for line in lines:
        subprocess.run(["bash", "-ec", line], check=True, cwd=ROOT.parent, env=cluster.environ, timeout=90)


def test_an_installation_grows_and_leaves_nothing_behind(cluster: ControlPlane, tmp_path: Path) -> None:
    """From a laptop's to `standard` to `hardened`, and away, by the lines of docs/install.md.

    No workload has to be deleted first, no claim of a log reader is lost, and what the folders before brought goes too.
    """
    mine, hardened = installation(tmp_path, "local", "audit-file"), ROOT / "overlays" / "hardened"
    install(cluster, mine)
    _, grow = told("Upgrade", mine)
    run(cluster, grow)
    assert [name for name in ours(cluster) if "ugallu-local" in name] == ["persistentvolumeclaim/ugallu-local-state"]
    cluster.wait("its claim", lambda: "state-ugallu-audit-detection-0" in cluster.kubectl("get", "pvc", "-A"), 30)
    install(cluster, hardened)
    claims = cluster.kubectl("get", "pvc", "-n", "ugallu-system")
    assert "state-ugallu-audit-detection-0" in claims
    assert "clusterrole.rbac.authorization.k8s.io/ugallu-audit-detection-file" in ours(cluster)
    (leave,) = told("Uninstall", hardened)
    run(cluster, leave)
    cluster.wait("everything gone", lambda: not ours(cluster), 60)
