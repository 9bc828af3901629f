"""A real API server gives the verdicts of the policies' battery, under the documents that we generate."""

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.cluster import ApiServer, ControlPlane
from ugallu.api.forensics import ForensicsConfig
from ugallu.api.meta import Kind
from ugallu.api.policies import policies
from ugallu.testing.contracts.policies import BEFORE, CASES, VALUES, Case, Document, merge_patch

pytestmark = pytest.mark.real

POLICIES = policies(VALUES)
FORENSICS = ForensicsConfig.kind_info
Answer = tuple[int, dict[str, Any]]

CILIUM = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "ciliumnetworkpolicies.cilium.io"},
    "spec": {
        "group": "cilium.io",
        "names": {"kind": "CiliumNetworkPolicy", "plural": "ciliumnetworkpolicies"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}
EVERYBODY = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "everybody-may-everything"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}],
}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}


class Server:
    """One connection to the API server, on which any user speaks."""

    def __init__(self, cluster: ApiServer, folder: Path) -> None:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        user = config["users"][0]["user"]
        context = ssl.create_default_context(cafile=str(cluster.ca))
        pem = folder / "admin.pem"
        pem.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
        context.load_cert_chain(pem)
        host, port = cluster.url.removeprefix("https://").split(":")
        self._connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None, *, user: str = "") -> Answer:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        if user:
            headers["Impersonate-User"] = user
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def must(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        status, answer = self.ask(method, path, body)
        assert status in (200, 201), answer
        return answer

    def write(self, case: Case) -> Answer:
        """Ask for what the case asks, as its user, so that nothing is stored whatever the answer."""
        path, dry = place(case.kind), "?dryRun=All"
        if case.before is None:
            return self.ask("POST", path + dry, case.after, user=case.user)
        path += f"/{case.name}"
        if case.after is None:
            return self.ask("DELETE", path + dry, user=case.user)
        if case.subresource:
            path += f"/{case.subresource}"
        return self.ask("PATCH", path + dry, merge_patch(case.before, case.after), user=case.user)


def place(kind: Kind) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    return f"{root}/namespaces/default/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"


def store(server: Server, kind: Kind, document: Document) -> None:
    """Store an object with its status, both as they stand."""
    server.must("POST", place(kind), document)
    if status := document.get("status"):
        where = f"{place(kind)}/{document['metadata']['name']}/status"
        server.must("PATCH", where, {"status": status})


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """Return a control plane of its own: its policies would judge other tests' objects, and a controller checks types."""
    with ControlPlane() as started:
        yield started


@pytest.fixture(scope="module")
def server(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that stored what the cases find, before it enforced the policies."""
    cluster.apply(CILIUM, EVERYBODY, ACCOUNT)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    cluster.serve_kinds()
    server = Server(cluster, tmp_path_factory.mktemp("keys"))
    for kind, document in BEFORE:
        store(server, kind, document)
    for case in CASES:
        if case.before is not None:
            store(server, case.kind, case.before)
    cluster.apply(*(document for policy in POLICIES for document in policy.documents()))
    for policy in POLICIES:
        probe = next(case for case in CASES if f"ugallu.{case.policy}" == policy.name and refused_by_policy(case))
        cluster.wait(f"{policy.name} enforced", partial(refuses, server, probe), 60)
    yield server
    server.close()


def refuses(server: Server, case: Case) -> bool:
    return server.write(case)[0] in (403, 422)


def refused_by_policy(case: Case) -> bool:
    return bool(case.refused) and not case.by_schema


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_object_gets_the_verdict(server: Server, case: Case) -> None:
    """Accepted, or refused with the words of the rule and the status of its reason."""
    status, answer = server.write(case)
    if not case.refused:
        assert status in (200, 201), answer["message"]
        return
    assert status in (403, 422), answer
    assert case.refused.lower() in answer["message"].lower()
    if refused_by_policy(case):
        name = f"ugallu.{case.policy}"
        assert f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request" in answer["message"]
        reason = next(policy.reason for policy in POLICIES if policy.name == name)
        assert answer["reason"] == reason
        assert status == {"Forbidden": 403, "Invalid": 422}[reason]


def test_expressions_fit_the_types_of_what_they_judge(server: Server, cluster: ApiServer) -> None:
    """The server checks every expression against the schema of every kind that its policy matches, and warns of nothing."""
    for policy in POLICIES:
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy.name}"

        def checked(path: str = path) -> dict[str, Any] | None:
            found: dict[str, Any] | None = server.must("GET", path).get("status", {}).get("typeChecking")
            return found

        assert cluster.wait(f"types of {policy.name}", lambda: checked() is not None)
        assert checked() == {}, policy.name


def test_without_its_config_nobody_acknowledges_an_incident_and_events_still_come(
    server: Server, cluster: ApiServer
) -> None:
    """The list in the ForensicsConfig fails closed: for updates of Forensic events, and for nothing else."""
    config = f"{place(FORENSICS)}/default"
    stored = server.must("GET", config)
    ours = [case for case in CASES if case.policy.startswith("forensic-ack-restricted")]
    listed = next(case for case in ours if case.says == "acknowledged by one of the policy's list")
    server.must("DELETE", config)
    try:
        cluster.wait("the policy without its config", lambda: server.write(listed)[0] != 200)
        status, answer = server.write(listed)
        assert status in (403, 422), answer
        assert "no params found" in answer["message"]
        for case in ours:
            if case.says.startswith(("created", "an event of another class")) and "without label" not in case.says:
                assert (server.write(case)[0] in (200, 201)) == (not case.refused), case
    finally:
        server.must(
            "POST",
            place(FORENSICS),
            {key: stored[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "default"}},
        )
        cluster.wait("the policy with its config", lambda: server.write(listed)[0] == 200)
