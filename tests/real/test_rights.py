"""Each role at work on a real API server, with its ServiceAccount's rights and no others: enough of them, and none in vain.

The server's own audit log is the witness, and it is what the rules read as well.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.rig.cluster import ApiServer, Options
from tests.rig.ground import wait
from tests.rig.intruder import EXPECTED, attack
from ugallu.operator.contract import Grant
from ugallu.operator.rights import rights
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.backpressure.operator import Backpressure
from ugallu.runtime.ttl.operator import COLLECTED, TTL
from ugallu_audit_detection.operator import AuditDetection

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
EVERYTHING: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "RequestResponse"}],
}
IN_RESERVE: Final = {
    ("security.ugallu.io", "attestationbundles", "list"): "for servers that stream no lists (WatchList)",
    ("security.ugallu.io", "securityevents", "list"): "for servers that stream no lists (WatchList)",
    ("security.ugallu.io", "sigmarules", "list"): "for servers that stream no lists (WatchList)",
    ("security.ugallu.io", "auditdetectionconfigs", "list"): "for servers that stream no lists (WatchList)",
    ("security.ugallu.io", "ttlconfigs", "list"): "for servers that stream no lists (WatchList)",
    ("", "configmaps", "list"): "for servers that stream no lists (WatchList)",
    ("coordination.k8s.io", "leases", "list"): "for servers that stream no lists (WatchList)",
    **{
        ("security.ugallu.io", kind.kind_info.plural, "list"): "for servers that stream no lists (WatchList)"
        for kind in COLLECTED
    },
    **{
        (
            group,
            plural,
            verb,
        ): "for rules that ask which Pod is entered and which rights are behind it: none of these does"
        for group, plural in (
            ("", "pods"),
            ("rbac.authorization.k8s.io", "roles"),
            ("rbac.authorization.k8s.io", "rolebindings"),
            ("rbac.authorization.k8s.io", "clusterroles"),
            ("rbac.authorization.k8s.io", "clusterrolebindings"),
        )
        for verb in ("list", "watch")
    },
    **{
        ("security.ugallu.io", *right): "for an attestor with services of its own; this one seals locally"
        for right in (
            ("wormconfigs", "list"),
            ("wormconfigs", "watch"),
            ("attestorconfigs", "list"),
            ("attestorconfigs/status", "patch"),
        )
    },
    ("security.ugallu.io", "eventresponses/status", "patch"): "says that it cannot go, after seven tries in vain",
    ("security.ugallu.io", "attestationbundles/status", "patch"): "says that it cannot go, after seven tries in vain",
}
"""Rights that a run need not use, each with its reason."""
IN_RESERVE_OF: Final[dict[type[Any], dict[tuple[str, str, str], str]]] = {
    Attestor: {("security.ugallu.io", "securityevents", "create"): "tells what is wrong with evidence, and nothing is"},
    Backpressure: {
        ("security.ugallu.io", "securityevents", "get"): "reads back what stands under a name that is taken"
    },
}
ROLES: Final = {
    Attestor: "attestor", AuditDetection: "audit-detection", Backpressure: "backpressure", TTL: "ttl",
}  # fmt: skip
USERS: Final = {kind: f"system:serviceaccount:ugallu-system:ugallu-{name}" for kind, name in ROLES.items()}


@dataclass
class Role:
    """One `ugallu run` with a ServiceAccount's token."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@dataclass
class Installed:
    """A cluster with the overlay `standard`, its two roles at work, and an attack behind it."""

    api: ApiServer
    folder: Path
    roles: dict[str, Role]

    def start(self, name: str, state: str, *more: str) -> Role:
        config = self.api.kubeconfig_with(self.api.token("ugallu-system", f"ugallu-{name}"))
        log = self.folder / f"{state}.log"
        command = [
            sys.executable, "-m", "ugallu", "run", "--kubeconfig", str(config), "--enable", name, "--state",
            str(self.folder / state), "--health", "", "--metrics", "", "--log-format", "json", *more,
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=self.api.environ, cwd="/")
        return Role(process, log)

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.api.kubectl("get", "securityevents", "-o", "json"))["items"]
        return found

    def requests(self, user: str) -> list[dict[str, Any]]:
        return [event for event in self.api.audit() if event["user"].get("username") == user]


def everything(folder: Path) -> Path:
    """The overlay `standard` and ttl, which comes with a store that it shares with the attestor."""
    there = Path(os.path.relpath(ROOT / "manifests", folder))
    listing = {"resources": [str(there / "overlays" / "standard")], "components": [str(there / "components" / "ttl")]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listing))
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("rights")
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(EVERYTHING))
    with ApiServer(Options(audit_policy=policy)) as api:
        api.serve_kinds()
        api.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(everything(folder)))
        api.kubectl("apply", "--server-side", "-f", str(ROOT / "examples" / "rules"))
        config = {
            "apiVersion": "security.ugallu.io/v1alpha1",
            "kind": "AuditDetectionConfig",
            "metadata": {"name": "default"},
        }
        api.apply({**config, "spec": {"consumers": [{"name": "nobody"}]}})
        at = Installed(api, folder, {})
        at.roles["attestor"] = at.start("attestor", "attestor", "--evidence", "local")
        at.roles["audit-detection"] = at.start(
            "audit-detection", "detection", "--audit-log", str(api.audit_log), "--from-start"
        )
        try:
            # There are no controllers here to make it.
            api.kubectl("create", "namespace", "shop")
            api.kubectl("create", "serviceaccount", "default", "-n", "shop")
            attack(api, "shop")
            at.api.wait("every event attested", lambda: settled(at), 90)
            # A second process without the first one's memory finds the same facts under the same names.
            again = at.start("audit-detection", "again", "--audit-log", str(api.audit_log), "--from-start")
            at.roles["again"] = again
            at.api.wait("what was there is read back", lambda: read_back(at), 60)
            # What its rules counted it writes as it goes.
            assert at.roles.pop("again").stop() == 0, again.log.read_text()[-2000:]
            collect(at)
            press(at)
            wait("one of each kind archived and deleted", lambda: collected(at), 120, every=1.0)
            yield at
        finally:
            codes = {name: role.stop() for name, role in at.roles.items()}
        assert codes == dict.fromkeys(codes, 0), [role.log.read_text()[-2000:] for role in at.roles.values()]


def settled(at: Installed) -> bool:
    dead = [name for name, role in at.roles.items() if role.process.poll() is not None]
    assert not dead, at.roles[dead[0]].log.read_text()[-3000:]
    events = at.events()
    return {event["spec"]["type"] for event in events} >= EXPECTED and all(
        event.get("status", {}).get("phase") == "Attested" for event in events
    )


API: Final = "security.ugallu.io/v1alpha1"
SYSTEM: Final = "ugallu-system"
RUNS: Final = {
    "SeccompTrainingRun": {"targetNamespace": "shop", "targetSelector": {}},
    "BackupVerifyRun": {"backend": "velero", "backupRef": {"name": "daily"}},
    "ComplianceScanRun": {"backend": "kube-bench", "profile": "cis"},
    "ConfidentialAttestationRun": {"backend": "tpm", "targetNodeName": "node-1", "nonce": "0123456789abcdef"},
}
RESULTS: Final = {
    "BackupVerifyResult": {"backend": "velero", "mode": "checksum-only"},
    "ComplianceScanResult": {"backend": "kube-bench", "profile": "cis"},
    "ConfidentialAttestationResult": {
        "backend": "tpm",
        "nodeName": "node-1",
        "nonce": "0123456789abcdef",
        "verdict": "verified",
    },
}


def collect(at: Installed) -> None:
    """Have ttl collect an object of each kind: what is as grave as a plain call, a response to it, bundles, runs and their results."""
    api = at.api
    by_type = {event["spec"]["type"]: event for event in at.events()}
    other = by_type["HostPathMount"]["metadata"]
    event, severity = by_type["KubernetesAPICall"]["metadata"], by_type["KubernetesAPICall"]["spec"]["severity"]
    spec = {
        "securityEventRef": {"name": event["name"], "uid": event["uid"]},
        "responder": {"kind": "Operator", "name": "ugallu-forensics"},
        "action": {"type": "PodFreeze"},
    }
    api.apply({"apiVersion": API, "kind": "EventResponse", "metadata": {"name": "er-1"}, "spec": spec})
    done = '{"status":{"phase":"Succeeded","outcome":{"type":"ActionTaken"}}}'
    api.kubectl("patch", "eventresponse", "er-1", "--subresource=status", "--type=merge", "-p", done)
    for kind, wanted in {
        **RUNS,
        **{kind: {"derivedFromRun": {"name": "r-1"}, **of} for kind, of in RESULTS.items()},
    }.items():
        api.apply({"apiVersion": API, "kind": kind, "metadata": {"name": "r-1", "namespace": SYSTEM}, "spec": wanted})
    over = '{"status":{"phase":"Succeeded","completionTime":"2026-01-01T00:00:00Z"}}'
    for kind in RUNS:
        api.kubectl("patch", kind, "r-1", "-n", SYSTEM, "--subresource=status", "--type=merge", "-p", over)

    def sealed() -> bool:
        found = json.loads(api.kubectl("get", "attestationbundles", "-o", "json"))["items"]
        return {"er-1"} <= {
            bundle["spec"]["attestedFor"]["name"]
            for bundle in found
            if bundle.get("status", {}).get("phase") == "Sealed"
        }

    api.wait("the response sealed", sealed, 60)
    # A bundle whose event somebody else deleted has had its time as well.
    api.kubectl("delete", "securityevent", other["name"])
    # The attestor holds its evidence open; ttl reads a copy, as it would read the one store that both are given.
    shutil.copytree(at.folder / "attestor" / "evidence", at.folder / "ttl" / "evidence")
    at.roles["ttl"] = at.start("ttl", "ttl", "--evidence", "local")
    api.wait("that nothing is configured is told", lambda: told(at, "TTLConfigMissing"), 60)
    brief = {"backupVerify": "1s", "complianceScan": "1s", "confidentialAttestation": "1s", "seccompTraining": "1s"}
    windows = {
        "securityEvent": {severity: "1s"},
        "eventResponse": {"strategy": "constant", "constant": "1s"},
        "attestationBundle": {"grace": "1s"},
        "results": brief,
    }
    config = {"apiVersion": API, "kind": "TTLConfig", "metadata": {"name": "default", "namespace": SYSTEM}}
    api.apply({**config, "spec": {"defaults": windows}})


def collected(at: Installed) -> bool:
    """Tell whether one of each kind was archived and deleted."""
    return {kind.kind_info.plural for kind in COLLECTED} <= {
        event["objectRef"]["resource"] for event in at.requests(USERS[TTL]) if event["verb"] == "delete"
    }


def press(at: Installed) -> None:
    """Have backpressure call the store full enough to be told of, and every emitter hear it."""
    page = at.api.kubectl("get", "--raw", "/metrics")
    sizes = [line.split()[-1] for line in page.splitlines() if line.startswith("apiserver_storage_size_bytes{")]
    capacity = int(max(float(size) for size in sizes) / 0.8)
    at.roles["backpressure"] = at.start("backpressure", "backpressure", "--backpressure-capacity-bytes", str(capacity))

    def said() -> bool:
        found = json.loads(at.api.kubectl("get", "configmap", "ugallu-backpressure", "-n", SYSTEM, "-o", "json"))
        return bool(found.get("data", {}).get("level") == "Yellow")

    at.api.wait("a level in the ConfigMap", said, 60)
    at.api.wait("an event about it", lambda: told(at, "EtcdBackpressureHigh"), 60)
    heard = at.roles["audit-detection"].log
    at.api.wait("every emitter hears of it", lambda: '"now":"yellow"' in heard.read_text(), 60)


def told(at: Installed, type_: str) -> bool:
    return any(event["spec"]["type"] == type_ for event in at.events())


def read_back(at: Installed) -> bool:
    return any(
        event["verb"] == "get" and event["objectRef"]["resource"] == "securityevents"
        for event in at.requests(USERS[AuditDetection])
        if "objectRef" in event
    )


def test_the_attack_is_found_and_sealed(installed: Installed) -> None:
    """`kubectl get securityevents` is the dashboard: class, type, severity, phase and subject of each."""
    lines = installed.api.kubectl("get", "securityevents").splitlines()
    assert lines[0].split() == ["NAME", "CLASS", "TYPE", "SEVERITY", "PHASE", "SUBJECT", "AGE"]
    assert any({"ClusterAdminGranted", "critical", "Attested", "web"} <= set(line.split()) for line in lines)
    names = {event["spec"]["source"]["name"] for event in installed.events() if event["spec"]["class"] == "Detection"}
    assert names == {"ugallu-audit-detection"}
    uid = json.loads(installed.api.kubectl("get", "namespace", "kube-system", "-o", "json"))["metadata"]["uid"]
    assert {event["spec"]["clusterIdentity"]["clusterID"] for event in installed.events()} == {uid}


def test_the_same_facts_have_the_same_names(installed: Installed) -> None:
    """A process that starts anew, or beside another one, makes nothing twice."""
    events = installed.events()
    facts = [
        (event["spec"]["type"], event["spec"]["subject"].get("uid") or event["spec"]["subject"]["name"], event["spec"]["correlationID"],
         event["spec"]["signals"].get("rule"))
        for event in events
    ]  # fmt: skip
    assert len(set(facts)) == len(facts)


@pytest.mark.parametrize("kind", ROLES, ids=ROLES.values())
def test_no_right_is_missing(installed: Installed, kind: type[Any]) -> None:
    """The server never had to refuse a role anything."""
    refused = [
        (event["verb"], event["requestURI"])
        for event in installed.requests(USERS[kind])
        if event.get("responseStatus", {}).get("code") in (401, 403)
    ]
    assert refused == []


@pytest.mark.parametrize("kind", ROLES, ids=ROLES.values())
def test_no_right_is_granted_in_vain(installed: Installed, kind: type[Any]) -> None:
    """What a role may do it does, or a reason is listed."""
    used = {
        (ref.get("apiGroup", ""), "/".join(filter(None, (ref["resource"], ref.get("subresource", "")))), event["verb"])
        for event in installed.requests(USERS[kind])
        if (ref := event.get("objectRef"))
    }
    used |= {("", event["requestURI"], event["verb"]) for event in installed.requests(USERS[kind])}
    unused = {right for grant in rights(kind) for right in spelled(grant)} - used
    assert unused - set(IN_RESERVE) - set(IN_RESERVE_OF.get(kind, {})) == set()


def spelled(grant: Grant) -> set[tuple[str, str, str]]:
    return {(grant.group, resource, verb) for resource in (*grant.resources, *grant.urls) for verb in grant.verbs}


@pytest.mark.parametrize("kind", [Attestor, AuditDetection], ids=["attestor", "audit-detection"])
def test_a_role_at_rest_asks_less_than_once_a_second(installed: Installed, kind: type[Any]) -> None:
    """Leases apart, which are renewed every few seconds."""
    asked = [
        event for event in installed.requests(USERS[kind]) if event.get("objectRef", {}).get("resource") != "leases"
    ]
    times = sorted(event["stageTimestamp"] for event in asked)
    writes = [event for event in asked if event["verb"] in ("create", "patch")]
    made = {
        event["objectRef"]["name"]
        for event in installed.api.audit()
        if event["verb"] == "create"
        and event.get("objectRef", {}).get("resource") in ("securityevents", "attestationbundles")
    }
    # Everything that was ever asked: a start, and what each fact and bundle cost. There is no polling in it.
    assert len(asked) - len(writes) < 20 + 2 * len(made), times


def test_what_ttl_collected_is_exported_from_its_archive(installed: Installed, tmp_path: Path) -> None:
    """An event and the response to it that are gone from the cluster: the archive has them, and what proves them."""
    found = subprocess.run(
        [sys.executable, "-m", "ugallu", "export", tmp_path / "e", "--archived", "--since", "2026-01-01T00:00:00Z",
         "--kubeconfig", installed.api.kubeconfig, "--state", installed.folder / "ttl"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    facts = json.loads((tmp_path / "e" / "manifest.json").read_text())["facts"]
    collected = {fact["kind"]: fact for fact in facts if fact.get("archived")}
    assert set(collected) == {"SecurityEvent", "EventResponse"}, found.stderr
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "verify", tmp_path / "e", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = {fact["uid"]: fact["ok"] for fact in json.loads(done.stdout)["facts"]}
    assert {told[fact["uid"]] for fact in collected.values()} == {True}


def test_doctor_finds_the_cluster_well(installed: Installed) -> None:
    """Kinds and policies are ours, the clock agrees; that no Pod of ours runs here is said, with the line that mends it."""
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "doctor", "--kubeconfig", str(installed.api.kubeconfig), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert {name: checks[name]["verdict"] for name in ("server", "clock", "kinds", "policies", "policy bindings")} == {
        "server": "ok", "clock": "ok", "kinds": "ok", "policies": "ok", "policy bindings": "ok",
    }, checks  # fmt: skip
    assert checks["pods"]["verdict"] == "warn"
    assert "kubectl apply" in checks["pods"]["fix"]


def test_a_server_that_is_killed_again_and_again_costs_nothing(installed: Installed) -> None:
    """What happens between two deaths of the API server is found, sealed, and told once, by the processes that were there."""
    api = installed.api
    names = [f"again-{number}" for number in range(3)]
    for name in names:
        api.kubectl("create", "clusterrolebinding", name, "--clusterrole=cluster-admin", f"--user={name}")
        api.restart()

    def told() -> bool:
        found = [event for event in installed.events() if event["spec"]["subject"]["name"] in names]
        sealed = [
            event["spec"]["subject"]["name"] for event in found if event.get("status", {}).get("phase") == "Attested"
        ]
        return sorted(sealed) == names

    api.wait("each found and sealed once", told, 90)
    assert [role.process.poll() for role in installed.roles.values()] == [None] * len(installed.roles)


def test_doctor_names_what_was_changed(installed: Installed) -> None:
    """A policy that somebody weakened, and a kind that is gone, are named with the line that mends them."""
    api = installed.api
    binding = "validatingadmissionpolicybinding/ugallu.spec-immutable"
    api.kubectl("patch", binding, "--type=merge", "-p", '{"spec":{"validationActions":["Audit"]}}')
    api.kubectl("delete", "crd", "backupverifyruns.security.ugallu.io")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ugallu", "doctor", "--kubeconfig", str(api.kubeconfig)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        api.kubectl("patch", binding, "--type=merge", "-p", '{"spec":{"validationActions":["Deny"]}}')
    assert done.returncode == 1
    assert "ugallu.spec-immutable (validationActions[0])" in done.stdout
    assert "1 of 22 are missing: backupverifyruns.security.ugallu.io" in done.stdout
    assert "-> kubectl apply" in done.stdout
