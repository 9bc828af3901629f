"""Each role at work on a real API server, with its ServiceAccount's rights and no others: enough of them, and none in vain.

The server's own audit log is the witness, and it is what the rules read as well.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.rig.cluster import ApiServer, Options
from tests.rig.ground import RigError, wait
from tests.rig.intruder import EXPECTED, attack
from ugallu.manifests.roles import mebibytes
from ugallu.operator.contract import Grant, Operator
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
IN_RESERVE: Final[dict[str, dict[tuple[str, str, str], str]]] = {
    "attestor": {
        ("security.ugallu.io", "securityevents", "create"): "tells what is wrong with evidence, and nothing is",
        ("security.ugallu.io", "wormconfigs", "watch"): "for a store outside; this one seals in its state",
        ("security.ugallu.io", "wormconfigs/status", "patch"): "for one that is not called default",
        ("security.ugallu.io", "attestorconfigs/status", "patch"): "says what became of a config; here is none",
    },
    "audit-detection": {
        ("security.ugallu.io", "sigmarules", "get"): "for what was counted last, by one that ends; these go on",
    },
    "backpressure": {
        ("security.ugallu.io", "securityevents", "get"): "reads back what stands under a name that is taken",
    },
    "ttl": {
        ("security.ugallu.io", "eventresponses/status", "patch"): "says that it cannot go, after seven tries in vain",
        ("security.ugallu.io", "attestationbundles/status", "patch"): "says that it cannot go, after seven tries",
    },
}
"""Rights that an operator need not use in this run, each with its reason; and every `list` beside a `watch` that was
used, for servers that stream no lists (WatchList)."""


class Account(NamedTuple):
    """Who asks: a ServiceAccount, and the operators that run as it."""

    namespace: str
    name: str
    operators: tuple[type[Operator[Any]], ...]

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    @property
    def grants(self) -> set[Grant]:
        return {grant for operator in self.operators for grant in rights(operator)}


API: Final = "security.ugallu.io/v1alpha1"
SYSTEM: Final = "ugallu-system"
READERS: Final = ("audit-webhook", "audit-file")
ACCOUNTS: Final = {
    "attestor": Account(SYSTEM, "ugallu-attestor", (Attestor,)),
    "audit-webhook": Account(SYSTEM, "ugallu-audit-detection", (AuditDetection,)),
    "audit-file": Account("ugallu-system-privileged", "ugallu-audit-detection", (AuditDetection,)),
    "backpressure": Account(SYSTEM, "ugallu-backpressure", (Backpressure,)),
    "ttl": Account(SYSTEM, "ugallu-ttl", (TTL,)),
    "local": Account(SYSTEM, "ugallu-local", (Attestor, AuditDetection, Backpressure, TTL)),
}
"""By role: every account that an overlay or a component of operators brings."""


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
    """A cluster with every role of the overlays and the rule pack, and an attack behind it."""

    api: ApiServer
    folder: Path
    roles: dict[str, Role]
    asked: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in ACCOUNTS})
    """What each account has asked for, as far as the audit log was read, by role."""
    read: int = 0
    """Bytes of the audit log."""

    def start(self, name: str, *more: str) -> Role:
        account = ACCOUNTS[name]
        config = self.api.kubeconfig_with(self.api.token(account.namespace, account.name))
        log = self.folder / f"{name}.log"
        operators = ",".join(operator.name for operator in account.operators)
        command = [
            sys.executable, "-m", "ugallu", "run", "--kubeconfig", str(config), "--enable", operators, "--state",
            str(self.folder / name), "--health", "", "--metrics", "", "--log-format", "json", *more,
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=self.api.environ, cwd="/")
        self.roles[name] = Role(process, log)
        return self.roles[name]

    @property
    def reading(self) -> tuple[str, ...]:
        """What has a role read the whole audit log."""
        return ("--audit-log", str(self.api.audit_log), "--from-start")

    def events(self) -> list[dict[str, Any]]:
        return self.items(f"/apis/{API}/securityevents")

    def items(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.api.request("GET", path)[1])["items"]
        return found

    def requests(self, name: str) -> list[dict[str, Any]]:
        """Read on in the audit log, and return what this account has asked for."""
        names = {account.user: role for role, account in ACCOUNTS.items()}
        with self.api.audit_log.open("rb") as log:
            log.seek(self.read)
            whole, end, _ = log.read().rpartition(b"\n")
        self.read += len(whole + end)
        for line in whole.splitlines():
            # Most lines are ours, kubectl's, and large.
            if b'"username":"system:serviceaccount:ugallu-system' in line:
                event = json.loads(line)
                if (role := names.get(event["user"]["username"])) is not None:
                    self.asked[role].append(event)
        return self.asked[name]


def everything(folder: Path) -> Path:
    """The overlay `standard`, and the roles that come as components."""
    there = Path(os.path.relpath(ROOT / "manifests", folder))
    more = [str(there / "components" / name) for name in ("audit-file", "ttl")]
    listing = {"resources": [str(there / "overlays" / "standard")], "components": more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(listing))
    return folder


def install(api: ApiServer, folder: Path, before: list[Any]) -> None:
    """Apply what is in a folder, but for the kinds, which are there, and what was applied as it is `before`."""
    built = yaml.load_all(api.kubectl("kustomize", str(folder)), Loader=yaml.CSafeLoader)
    items = [each for each in built if each["kind"] != "CustomResourceDefinition" and each not in before]
    before += items
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("rights")
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(EVERYTHING))
    with ApiServer(Options(audit_policy=policy)) as api:
        api.serve_kinds()
        applied: list[Any] = []
        for overlay in ("local", "rule-pack"):
            install(api, ROOT / "manifests" / "overlays" / overlay, applied)
        config = {"apiVersion": API, "kind": "AuditDetectionConfig", "metadata": {"name": "default"}}
        # There are no controllers here to make the account.
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"}}
        shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        api.apply({**config, "spec": {"consumers": [{"name": "nobody"}]}}, shop, account)
        at = Installed(api, folder, {})
        try:
            alone(at)
            install(api, everything(folder), applied)
            apart(at)
            collect(at)
            press(at)
            wait("one of each kind archived and deleted", lambda: collected(at), 120, every=1.0)
            at.requests("local")
            yield at
        finally:
            codes = {name: role.stop() for name, role in at.roles.items()}
        assert codes == dict.fromkeys(codes, 0), [role.log.read_text()[-2000:] for role in at.roles.values()]


def alone(at: Installed) -> None:
    """One process with everything, under the account of `local`: the attack is found and sealed."""
    role = at.start("local", "--evidence", "local", *at.reading)
    attack(at.api, "shop")
    at.api.wait("every event attested", lambda: settled(at), 90)
    assert at.roles.pop("local").stop() == 0, role.log.read_text()[-2000:]


def apart(at: Installed) -> None:
    """Each role by itself: what there is they find under the same names, and what is new they find and seal once."""
    # A policy is in force a moment after it is stored; until then the attestor is somebody who may seal nothing.
    at.api.wait("the policies of these accounts", lambda: may_seal(at, "attestor"), 30)
    shutil.copytree(at.folder / "local" / "evidence", at.folder / "attestor" / "evidence")
    at.start("attestor", "--evidence", "local")
    for name in READERS:
        at.start(name, *at.reading)
    at.api.kubectl("create", "clusterrolebinding", "late", "--clusterrole=cluster-admin", "--user=late")
    at.api.wait("what was there is read back", lambda: all(read_back(at, name) for name in READERS), 60)
    at.api.wait("every event attested", lambda: settled(at, "late"), 90)


def may_seal(at: Installed, name: str) -> bool:
    """Ask as the admin in the account's place, and make nothing."""
    spec = {"attestedFor": {"kind": "SecurityEvent", "name": "none"}}
    bundle = {"apiVersion": API, "kind": "AttestationBundle", "metadata": {"name": "probe"}, "spec": spec}
    command = ("create", "--dry-run=server", f"--as={ACCOUNTS[name].user}", "-f", "-")
    try:
        at.api.kubectl(*command, stdin=yaml.safe_dump(bundle))
    except RigError:
        return False
    return True


def settled(at: Installed, *names: str) -> bool:
    dead = [name for name, role in at.roles.items() if role.process.poll() is not None]
    assert not dead, at.roles[dead[0]].log.read_text()[-3000:]
    events = at.events()
    about = {event["spec"]["subject"]["name"] for event in events}
    return (
        {event["spec"]["type"] for event in events} >= EXPECTED
        and about >= set(names)
        and all(event.get("status", {}).get("phase") == "Attested" for event in events)
    )


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
    """Have ttl collect an object of each kind: an event, a response to it, bundles, runs and their results."""
    api = at.api
    events = at.events()
    by_severity = Counter(each["spec"]["severity"] for each in events)
    # Of the rarest severity, so that few are collected; one of another severity is deleted by somebody else.
    severity = min(by_severity, key=lambda each: (by_severity[each], each))
    event = next(each["metadata"] for each in events if each["spec"]["severity"] == severity)
    other = next(each["metadata"] for each in events if each["spec"]["severity"] != severity)
    spec = {
        "securityEventRef": {"name": event["name"], "uid": event["uid"]},
        "responder": {"kind": "Operator", "name": "ugallu-forensics"},
        "action": {"type": "PodFreeze"},
    }
    results = {kind: {"derivedFromRun": {"name": "r-1"}, **of} for kind, of in RESULTS.items()}
    response = {"apiVersion": API, "kind": "EventResponse", "metadata": {"name": "er-1"}, "spec": spec}
    place = {"name": "r-1", "namespace": SYSTEM}
    made = [
        {"apiVersion": API, "kind": kind, "metadata": place, "spec": of} for kind, of in {**RUNS, **results}.items()
    ]
    done = {"phase": "Succeeded", "outcome": {"type": "ActionTaken"}}
    over = {"phase": "Succeeded", "completionTime": "2026-01-01T00:00:00Z"}
    ended = [{**run, "status": over} for run in made if run["kind"] in RUNS]
    api.apply(response, *made)
    text = yaml.safe_dump_all([{**response, "status": done}, *ended])
    api.kubectl("apply", "--server-side", "--subresource=status", "--force-conflicts", "-f", "-", stdin=text)

    def sealed() -> bool:
        found = at.items(f"/apis/{API}/attestationbundles")
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
    at.start("ttl", "--evidence", "local")
    wait("that nothing is configured is told", lambda: has_made(at, "ttl", "securityevents"), 60, every=0.5)
    assert told(at, "TTLConfigMissing")
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
        event["objectRef"]["resource"] for event in at.requests("ttl") if event["verb"] == "delete"
    }


def press(at: Installed) -> None:
    """Have backpressure call the store full enough to be told of, and every emitter hear it."""
    page = at.api.kubectl("get", "--raw", "/metrics")
    sizes = [line.split()[-1] for line in page.splitlines() if line.startswith("apiserver_storage_size_bytes{")]
    capacity = int(max(float(size) for size in sizes) / 0.8)
    at.start("backpressure", "--backpressure-capacity-bytes", str(capacity))

    def said() -> bool:
        found = json.loads(at.api.request("GET", f"/api/v1/namespaces/{SYSTEM}/configmaps/ugallu-backpressure")[1])
        return bool(found.get("data", {}).get("level") == "Yellow")

    at.api.wait("a level in the ConfigMap", said, 60)
    at.api.wait("an event about it", lambda: told(at, "EtcdBackpressureHigh"), 60)
    heard = [at.roles[name].log for name in ("attestor", "audit-webhook", "audit-file", "ttl")]
    at.api.wait("every emitter hears of it", lambda: all('"now":"yellow"' in log.read_text() for log in heard), 60)


def has_made(at: Installed, name: str, plural: str) -> bool:
    return any(
        event["verb"] == "create" and event.get("objectRef", {}).get("resource") == plural
        for event in at.requests(name)
    )


def told(at: Installed, type_: str) -> bool:
    return any(event["spec"]["type"] == type_ for event in at.events())


def read_back(at: Installed, name: str) -> bool:
    return any(
        event["verb"] == "get" and event["objectRef"]["resource"] == "securityevents"
        for event in at.requests(name)
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
    facts = []
    for spec in (event["spec"] for event in installed.events()):
        about = spec["subject"]
        which = about.get("uid") or (about["kind"], about.get("namespace"), about["name"])
        # An act that comes again later is another fact.
        facts.append((spec["type"], which, spec["correlationID"], spec["signals"].get("rule"), spec["detectedAt"]))
    assert len(set(facts)) == len(facts)


@pytest.mark.parametrize("name", ACCOUNTS)
def test_no_right_is_missing(installed: Installed, name: str) -> None:
    """The server never had to refuse an account anything."""
    refused = [
        (event["verb"], event["requestURI"])
        for event in installed.asked[name]
        if event.get("responseStatus", {}).get("code") in (401, 403)
    ]
    assert refused == []


class Right(NamedTuple):
    """One verb on one resource (or path); with a namespace or a name in these alone. Of a request: what it asked for."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""

    @property
    def plural(self) -> tuple[str, str]:
        return self.group, self.resource.partition("/")[0]

    def covers(self, asked: "Right") -> bool:
        same = (self.group, self.resource, self.verb) == (asked.group, asked.resource, asked.verb)
        return same and self.namespace in ("", asked.namespace) and self.name in ("", asked.name)


def granted(grants: Iterable[Grant]) -> set[Right]:
    return {
        Right(grant.group, resource, verb, grant.namespace, name)
        for grant in grants
        for resource in (*grant.resources, *grant.urls)
        for verb in grant.verbs
        for name in grant.names or ("",)
    }


def asked_for(requests: Iterable[dict[str, Any]]) -> set[Right]:
    found = set()
    for event in requests:
        if (ref := event.get("objectRef")) is None:
            found.add(Right("", event["requestURI"], event["verb"]))
            continue
        resource = "/".join(filter(None, (ref["resource"], ref.get("subresource", ""))))
        # A namespace is said to lie in itself.
        place = "" if resource == "namespaces" else ref.get("namespace", ""), ref.get("name", "")
        found.add(Right(ref.get("apiGroup", ""), resource, event["verb"], *place))
    return found


def unused(rights: set[Right], asked: set[Right], reserve: set[tuple[str, str, str]]) -> set[Right]:
    """What nobody asked for without a reason; a `list` goes with the `watch` of the same things."""
    used = {right for right in rights if right[:3] in reserve or any(right.covers(each) for each in asked)}
    return {right for right in rights - used if right.verb != "list" or right._replace(verb="watch") not in used}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_no_right_is_granted_in_vain(installed: Installed, name: str) -> None:
    """What an account may do it does, name by name and in each namespace, or a reason is listed.

    `local` does not live long enough for all of it: there it is enough that the operator does it under its own account.
    """
    account = ACCOUNTS[name]
    asked = asked_for(installed.asked[name])
    if name == "local":
        asked |= {right for other in ACCOUNTS for right in asked_for(installed.asked[other])}
    reserve = {right for operator in account.operators for right in IN_RESERVE.get(operator.name, ())}
    assert unused(granted(account.grants), asked, reserve) == set()


@pytest.mark.parametrize("name", ACCOUNTS)
def test_no_right_reaches_further_than_it_is_used(installed: Installed, name: str) -> None:
    """Who asks for one name, or in one namespace only, has the right to that alone."""
    asked = asked_for(installed.asked[name])
    rights = granted(ACCOUNTS[name].grants)
    made = {right.plural for right in rights if right.verb == "create"}
    wide = set()
    for right in rights:
        near = {each for each in asked if each.plural == right.plural}
        names, namespaces = {each.name for each in near}, {each.namespace for each in near}
        # What an account makes is called as nobody knows before.
        if right.plural not in made and not right.name and len(names) == 1 and "" not in names:
            wide.add((right, *names))
        if not right.namespace and len(namespaces) == 1 and "" not in namespaces:
            wide.add((right, *namespaces))
    assert wide == set()


REST_SECONDS: Final = 5.0


def test_a_role_at_rest_asks_less_than_once_a_second(installed: Installed) -> None:
    """Each of them, while nothing happens; Leases apart, which are renewed every few seconds.

    And after all that, none holds more memory than its Pod asks for, which is half of what it is given.
    """
    users = {ACCOUNTS[name].user: name for name in installed.roles}
    assert set(users.values()) == set(ACCOUNTS) - {"local"}
    begun = time.monotonic()
    log = installed.api.audit_log
    offset = log.stat().st_size

    def rested() -> Counter[str] | None:
        """What was asked in so many seconds, once that is little; a window with more to do in it begins again."""
        nonlocal begun, offset
        if time.monotonic() - begun < REST_SECONDS:
            return None
        with log.open("rb") as file:
            file.seek(offset)
            whole, _, _ = file.read().rpartition(b"\n")
        events = [json.loads(line) for line in whole.splitlines()]
        counts = Counter(
            users[event["user"]["username"]]
            for event in events
            if event["user"].get("username") in users and event.get("objectRef", {}).get("resource") != "leases"
        )
        if max(counts.values(), default=0) < REST_SECONDS:
            return counts + Counter({"asked": 1})
        begun, offset = time.monotonic(), log.stat().st_size
        return None

    wait("every role at rest", rested, 60)
    for name, role in installed.roles.items():
        given = sum(mebibytes(operator.workload.memory) for operator in ACCOUNTS[name].operators)
        assert resident(role.process.pid) < given // 2, name


def resident(pid: int) -> int:
    """Return what a process has in memory, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) >> 10


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
    """Kinds and policies are ours, the clock agrees; that no Pod of ours runs here is said, with the line that looks."""
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
    assert checks["policy values"]["detail"] == "those of manifests/overlays/standard"
    assert checks["pods"]["verdict"] == "warn"
    assert checks["pods"]["fix"].startswith("kubectl get deployments,statefulsets,daemonsets -A")


def test_a_server_that_is_killed_again_and_again_costs_nothing(installed: Installed) -> None:
    """What happens between two deaths of the API server is found, sealed, and told once, by the processes that were there."""
    api = installed.api
    names = [f"again-{number}" for number in range(2)]
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
    """A policy that somebody weakened, and a kind that is gone, are named; the lines that mend them do, and nothing else."""
    api, name = installed.api, "ugallu.spec-immutable"
    policy, binding = f"validatingadmissionpolicy/{name}", f"validatingadmissionpolicybinding/{name}"
    api.kubectl(
        "patch", policy, "--type=merge", "-p", '{"spec":{"matchConditions":[{"name":"a","expression":"false"}]}}'
    )
    api.kubectl("patch", binding, "--type=merge", "-p", '{"spec":{"validationActions":["Audit"]}}')
    api.kubectl("delete", "crd", "backupverifyruns.security.ugallu.io")

    def doctor() -> dict[str, dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "ugallu", "doctor", "--kubeconfig", str(api.kubeconfig), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        return {check["check"]: check for check in json.loads(done.stdout)["checks"]}

    found = {name: check for name, check in doctor().items() if check["verdict"] == "fail"}
    assert {name: check["detail"] for name, check in found.items()} == {
        "kinds": "1 of 22 are missing: backupverifyruns.security.ugallu.io",
        "policies": f"1 of 17 are not ours: {name} (matchConditions)",
        "policy bindings": f"1 of 17 are not ours: {name} (validationActions[0])",
    }
    for line in dict.fromkeys(check["fix"] for check in found.values()):
        subprocess.run(["bash", "-ec", line], check=True, cwd=ROOT, env=api.environ, capture_output=True)
    assert [check for check in doctor().values() if check["verdict"] == "fail"] == []
