"""What the rig promises: each size of cluster works as a cluster does, and leaves nothing on the machine however it ends."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.rig import ground, images, keeper
from tests.rig.cluster import ApiServer, AuditWebhook, ControlPlane, Options
from tests.rig.ground import RigError, free_port, wait
from tests.rig.keys import Authority
from tests.rig.node import Node

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
SETTINGS = [Path("/proc/sys", name) for name in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")]


# -- the API ---------------------------------------------------------------------------------------------------------


def test_a_service_account_may_do_what_it_was_granted_and_nothing_else(api: ApiServer) -> None:
    """A fresh ServiceAccount's token is known and refused; a Role opens what it names and no more; an invented token is unknown."""
    namespace = api.namespace()
    api.service_account(namespace, "clerk")
    token = api.token(namespace, "clerk")
    pods, secrets = (f"/api/v1/namespaces/{namespace}/{kind}" for kind in ("pods", "secrets"))
    assert api.request("GET", pods, token=token)[0] == 403
    api.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", "-n", namespace)
    account = f"--serviceaccount={namespace}:clerk"
    api.kubectl("create", "rolebinding", "reader", "--role=reader", account, "-n", namespace)
    api.wait("the grant", lambda: api.request("GET", pods, token=token)[0] == 200)
    assert api.request("GET", secrets, token=token)[0] == 403
    with pytest.raises(RigError, match="Forbidden"):
        api.kubectl("get", "secrets", "-n", namespace, kubeconfig=api.kubeconfig_with(token))
    assert api.request("GET", pods, token="invented")[0] == 401


def test_a_client_certificate_carries_user_and_groups(api: ApiServer) -> None:
    """Who asks with a kubeconfig made for a user is that user, in those groups."""
    seen = api.kubectl("auth", "whoami", "-o", "json", kubeconfig=api.kubeconfig_for("jane", ["ops", "dev"]))
    user = json.loads(seen)["status"]["userInfo"]
    assert user["username"] == "jane"
    assert user["groups"] == ["ops", "dev", "system:authenticated"]


def test_the_audit_log_holds_who_did_what(api: ApiServer) -> None:
    """A request is in the audit log, at the level of the recommended policy, by the time it is answered."""
    namespace = api.namespace("audited")
    (event,) = [
        event for event in api.audit() if event["requestURI"] == "/api/v1/namespaces" and _name(event) == namespace
    ]
    assert (event["verb"], event["user"]["username"], event["level"]) == ("create", "admin", "RequestResponse")


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_api_server_has_all_objects_at_the_same_address(
    api: ApiServer, with_signal: signal.Signals
) -> None:
    """What was stored before the API server ended is there when it is back, and kubeconfigs go on to work."""
    namespace = api.namespace()
    before = api.api_server.pid
    api.restart(with_signal)
    assert api.api_server.pid != before
    assert json.loads(api.kubectl("get", "namespace", namespace, "-o", "json"))["metadata"]["name"] == namespace


def test_after_a_compaction_old_revisions_are_gone(api: ApiServer) -> None:
    """Once the store has forgotten, and the API server's own memory is gone, an old list and an old watch are answered with 410."""
    revision = api.etcd.revision()
    api.namespace()
    assert api.etcd.compact() > revision
    api.restart()
    status, answer = api.request("GET", f"/api/v1/namespaces?resourceVersion={revision}&resourceVersionMatch=Exact")
    assert status == 410, answer
    _, answer = api.request("GET", f"/api/v1/namespaces?watch=1&timeoutSeconds=5&resourceVersion={revision}")
    assert json.loads(answer)["object"]["code"] == 410


def test_a_paused_api_server_holds_connections_and_answers_when_it_goes_on(api: ApiServer) -> None:
    """A paused API server accepts and says nothing; once resumed it is the same process."""
    before = api.api_server.pid
    api.pause()
    try:
        with socket.create_connection((api.address, api.port), timeout=0.3) as silent:
            context = ssl.create_default_context(cafile=str(api.ca))
            with pytest.raises(TimeoutError):
                context.wrap_socket(silent, server_hostname="localhost")
    finally:
        api.resume()
    api.ready()
    assert api.api_server.pid == before


def test_a_refusal_shows_what_the_server_says(api: ApiServer) -> None:
    """What kubectl or the API refuses is an error that carries the server's words."""
    with pytest.raises(RigError, match=r"(?s)status 1.*no-such"):
        api.kubectl("get", "namespace", "no-such")
    with pytest.raises(RigError, match="422"):
        api.create("/api/v1/namespaces", {"metadata": {"name": "Not A Name"}})


def test_the_audit_webhook_gets_what_the_file_gets(api: ApiServer, tmp_path: Path) -> None:
    """A sink behind TLS with a token has every event that the file has; the cluster beside it is another one."""
    authority = Authority(tmp_path, "sink-ca")
    with sink(authority) as (url, seen):
        webhook = AuditWebhook(f"{url}/audit/test", authority.pair.certificate, token="let-me-in")
        with ApiServer(Options(audit_webhook=webhook)) as other:
            namespace = other.namespace("heard")
            assert api.request("GET", f"/api/v1/namespaces/{namespace}")[0] == 404

            def same() -> bool:
                return {event["auditID"] for event in seen} >= {event["auditID"] for event in other.audit()}

            wait("the same events", same)
            assert any(_name(event) == namespace for event in seen)


# -- the control plane -----------------------------------------------------------------------------------------------


def test_controllers_collect_garbage_and_end_namespaces(control_plane: ControlPlane) -> None:
    """With controllers a Deployment makes Pods, an owner's end is its objects' end, and a deleted namespace goes."""
    namespace = control_plane.namespace()
    control_plane.kubectl("create", "deployment", "web", "--image=test.local/none:1", "-n", namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    control_plane.wait("a Pod", lambda: _items(control_plane, pods))
    control_plane.kubectl("delete", "deployment", "web", "-n", namespace, "--wait=false")
    control_plane.wait("no Pod", lambda: not _items(control_plane, pods))
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")
    control_plane.wait(
        "no namespace", lambda: control_plane.request("GET", f"/api/v1/namespaces/{namespace}")[0] == 404
    )


# -- the node --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(node: Node, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a namespace with two Pods: `web` serves on 8080 and has a Service, `python` has an interpreter."""
    folder = tmp_path_factory.mktemp("images")
    node.load(images.busybox(folder))
    node.load(images.python(folder))
    namespace = node.namespace("pods")
    serve = ["sh", "-c", "echo up; hostname > /tmp/name; httpd -f -p 8080 -h /tmp"]
    node.apply(
        _pod(namespace, "web", images.BUSYBOX, serve),
        _pod(namespace, "python", images.PYTHON, ["python3", "-c", "import signal; signal.pause()"]),
    )
    node.kubectl("expose", "pod", "web", "--port=80", "--target-port=8080", "-n", namespace)
    node.kubectl("wait", "--for=condition=Ready", "pod/web", "pod/python", "-n", namespace, "--timeout=60s")
    return namespace


def test_a_pod_is_heard_and_spoken_to(node: Node, web: str) -> None:
    """Logs and exec reach a Pod through the API server; its processes and cgroups are those of the machine."""
    assert node.kubectl("logs", "web", "-n", web) == "up\n"
    assert node.kubectl("exec", "web", "-n", web, "--", "cat", "/tmp/name") == "web\n"
    uid = json.loads(node.kubectl("get", "pod", "web", "-n", web, "-o", "json"))["metadata"]["uid"]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.pod_processes(uid)]
    assert any(b"httpd" in command for command in commands)
    assert all((group / "freezer.state").read_text() == "THAWED\n" for group in node.cgroups(uid))


def test_a_pod_finds_services_by_name_and_the_api_by_its_token(node: Node, web: str) -> None:
    """From inside a Pod a Service answers to its name, and the API server to the mounted token and authority."""
    program = f"""
import ssl, urllib.request
print(urllib.request.urlopen("http://web.{web}.svc/name", timeout=10).read().decode().strip())
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(account + "token").read()
request = urllib.request.Request("https://kubernetes.default.svc/version", headers={{"Authorization": "Bearer " + token}})
context = ssl.create_default_context(cafile=account + "ca.crt")
print(urllib.request.urlopen(request, timeout=10, context=context).status)
"""

    def answer() -> list[str] | None:
        # A Service takes a moment to reach the node's rules and the resolver.
        try:
            return node.kubectl("exec", "python", "-n", web, "--", "python3", "-c", program).split()
        except RigError:
            return None

    assert node.wait("a Service", answer) == ["web", "200"]


def test_a_network_policy_cuts(node: Node, web: str) -> None:
    """A Pod that answered is cut off by a deny-all policy and back without it; nothing is concluded from silence alone."""
    address = json.loads(node.kubectl("get", "pod", "web", "-n", web, "-o", "json"))["status"]["podIP"]
    node.wait("an answer", lambda: _answers(address))
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    metadata = {"name": "deny", "namespace": web}
    node.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    try:
        node.wait("silence", lambda: not _answers(address))
    finally:
        node.kubectl("delete", "networkpolicy", "deny", "-n", web)
    node.wait("an answer again", lambda: _answers(address))


def test_the_nodes_programs_come_back(node: Node, web: str) -> None:
    """A killed kubelet is started again, and Pods have not noticed."""
    (before,) = node.processes("kubelet")
    os.kill(before, signal.SIGKILL)
    node.wait("another kubelet", lambda: [pid for pid in node.processes("kubelet") if pid != before])

    def heard() -> bool:
        with contextlib.suppress(RigError):
            return node.kubectl("exec", "web", "-n", web, "--", "echo", "here") == "here\n"
        return False

    node.wait("exec", heard)


# -- nothing is left -------------------------------------------------------------------------------------------------


def test_a_start_that_fails_half_way_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    """When a part cannot start, the error shows its last words, and what had been started is gone."""
    before = machine()
    broken = Node(Options(flags={"kube-scheduler": ["--no-such-flag"]}))
    with pytest.raises(RigError, match=r"(?s)kube-scheduler ended.*unknown flag"):
        broken.start()
    assert traces(broken.folder) == []
    assert machine() == before


@pytest.mark.parametrize("size", ["control-plane", "node"])
@pytest.mark.parametrize("end", ["ctrl-c", "killed"])
def test_a_cluster_ends_with_its_owner(size: str, end: str) -> None:
    """After Ctrl-C, and after `kill -9` of the owner, no process, mount, link, cgroup, setting or folder of the cluster is left."""
    before = machine()
    owner, folder = up(size)
    assert any("process" in trace for trace in traces(folder))
    if end == "ctrl-c":
        # To the whole group, as a terminal sends it.
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.wait(30) == 0
        assert traces(folder) == []
    else:
        owner.kill()
        owner.wait()
    wait("nothing left", lambda: not traces(folder), hint=lambda: "\n".join(traces(folder)))
    assert machine() == before


def test_what_outlives_owner_and_keeper_is_swept_by_the_next_start() -> None:
    """When both are killed at once the cluster is orphaned, and whoever starts a cluster later clears it first."""
    owner, folder = up("api")
    for pid in [*_keepers(folder), owner.pid]:
        os.kill(pid, signal.SIGKILL)
    owner.wait()
    assert any("process" in trace for trace in traces(folder))
    os.utime(folder, (0, 0))

    def swept() -> bool:
        # The lock is free once the kernel has closed the files of the dead.
        ground.sweep()
        return not traces(folder)

    wait("nothing left", swept)


def up(size: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a cluster by the command line; return its owner and its folder."""
    command = [sys.executable, "-m", "tests.rig", "up", "--size", size]
    owner = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    with owner.stdout as said:
        line = said.readline()
    return owner, Path(line.partition("KUBECONFIG=")[2].split()[0]).parents[1]


def traces(folder: Path) -> list[str]:
    """Return all that the machine has of a cluster, by its name."""
    found = [f"process {pid}" for pid in keeper.processes(folder)]
    found += [f"mount {point}" for point in keeper.mounts(folder)]
    found += [f"cgroup {path}" for path in keeper.cgroups(folder.name)]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found += [f"link {line}" for line in links.splitlines() if f" {folder.name}@" in line or f" {folder.name}:" in line]
    return found + ([f"folder {folder}"] if folder.exists() else [])


def machine() -> dict[str, str]:
    """Return what a node might change on the machine itself."""
    state = {str(path): path.read_text() for path in [*SETTINGS, keeper.INOTIFY]}
    for command in ("iptables-save", "ip route", "ip netns"):
        said = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        # Counters and dates are no rules; the links of other clusters come and go.
        lines = [line for line in said.splitlines() if line[:1] not in "#:" and " ug-" not in line]
        state[command] = "\n".join(lines)
    folders = (
        "/var/lib/kubelet",
        "/var/lib/cni",
        "/var/log/pods",
        "/var/log/containers",
        "/run/netns",
        "/opt/containerd",
    )
    return state | {path: str(Path(path).exists()) for path in folders}


@contextlib.contextmanager
def sink(authority: Authority) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a receiver of audit events; yield its URL and the list that fills. Without the right path and token it refuses."""
    seen: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            right = self.path.startswith("/audit/test") and self.headers["Authorization"] == "Bearer let-me-in"
            if right:
                seen.extend(json.loads(body)["items"])
            self.send_response(200 if right else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            return

    pair = authority.issue("sink", "sink", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Receiver) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def _pod(namespace: str, name: str, image: str, command: list[str]) -> dict[str, Any]:
    spec = {"terminationGracePeriodSeconds": 0, "containers": [{"name": name, "image": image, "command": command}]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _items(cluster: ApiServer, path: str) -> list[Any]:
    items: list[Any] = json.loads(cluster.request("GET", path)[1])["items"]
    return items


def _name(event: dict[str, Any]) -> str:
    return str(event.get("objectRef", {}).get("name", ""))


def _answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, 8080, timeout=1)
    try:
        connection.request("GET", "/name")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _keepers(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if str(keeper.__file__).encode() in words and str(folder).encode() in words:
                found.append(int(path.parent.name))
    return found
