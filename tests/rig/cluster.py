"""Clusters without a machine of their own: the API alone, or with the controllers and the scheduler.

A cluster is what a test asks for; how its parts are started follows Kubernetes' own setup guide, with the least that makes
them fast: no fsync (the data is thrown away), no leader election, high client rates. Everything listens on loopback.
"""

import base64
import http.client
import json
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from tests.rig import go
from tests.rig.ground import Ground, Process, RigError, free_port, wait
from tests.rig.keys import Authority, Pair, service_accounts
from ugallu.api.crd import crd
from ugallu.api.kinds import KINDS
from ugallu.api.meta import API_VERSION

ROOT = Path(__file__).parents[2]
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class AuditWebhook:
    """Where the API server posts audit events; all paths are PEM files, the API server keeps the URL's path and drops its query."""

    url: str
    ca: Path | None = None
    token: str = ""
    client: Pair | None = None
    max_wait: str = "200ms"
    """How long a batch may fill; the server's own default is 30 s."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a test may choose about a cluster."""

    audit_policy: Path = ROOT / "examples" / "audit-policy.yaml"
    audit_webhook: AuditWebhook | None = None
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """More flags for kube-apiserver, kube-controller-manager, kube-scheduler, by name; of a flag given twice the last one counts."""


class Etcd:
    """The store behind the API server, to be handled as an operator of a cluster would, or worse."""

    def __init__(self, ground: Ground) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self.process = ground.process(
            "etcd",
            str(go.provide(go.ETCD)),
            f"--name={ground.name}",
            f"--data-dir={ground.folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            # Named, or two clusters collide on the usual port.
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={ground.name}={peer}",
        )

    def revision(self) -> int:
        """Return the store's revision, which is the newest resourceVersion there is."""
        return int(self._ask("maintenance/status", {})["header"]["revision"])

    def compact(self, revision: int | None = None) -> int:
        """Forget all history before the revision (by default: all there is) and return it.

        Who asks for an older revision gets 410 once the API server does not remember it either: its watch cache does, until it restarts.
        """
        revision = self.revision() if revision is None else revision
        self._ask("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def pause(self) -> None:
        """Stop the store where it stands: the API server's requests hang."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def _ask(self, path: str, body: Mapping[str, object]) -> Any:
        # The JSON gateway of etcd's own gRPC API, on the client port: https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(body))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RigError(f"etcd refuses {path}: {answer.decode(errors='replace')}")
        return json.loads(answer)


class ApiServer:
    """etcd and kube-apiserver: CRDs, RBAC, admission, audit, tokens, watches all work, and nothing else moves.

    Without controllers a namespace has no `default` ServiceAccount (Pods that name none are refused), a deleted namespace stays
    in Terminating, nothing is garbage-collected. Use as a context manager, or `start()` and `stop()`; nothing is left behind
    whichever way it ends. Several may run side by side.
    """

    size = "api"
    services = "10.96.0.0/16"
    address = "127.0.0.1"

    def __init__(self, options: Options | None = None) -> None:
        """Choose; nothing is started and nothing written yet."""
        self.options = options or Options()
        self.seconds = 0.0
        """How long the start took, programs being there."""
        self._namespaces = 0

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until usable; raises `RigError` with the log of what failed, after clearing everything."""
        # The programs first: a build takes minutes, and nothing of the cluster is needed for it.
        self._provide()
        begin = time.monotonic()
        self.ground = Ground()
        try:
            self.folder = self.ground.folder
            (self.folder / "bin").mkdir()
            for part in PARTS:
                (self.folder / "bin" / part).symlink_to(go.provide(go.KUBERNETES))
            self._write_keys()
            self._start()
            self.seconds = time.monotonic() - begin
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes of this cluster and remove everything of it from the machine."""
        self.ground.clear()

    def _provide(self) -> None:
        """Build or install what the cluster consists of."""
        go.provide(go.KUBERNETES)
        go.provide(go.ETCD)

    def _start(self) -> None:
        self.audit_log = self.folder / "audit.log"
        self.etcd = Etcd(self.ground)
        self.etcd.process.start()
        # At once: the API server tries until etcd answers.
        self.api_server = self.ground.process("kube-apiserver", *self._command())
        self.api_server.start()
        self.ready()

    def ready(self, seconds: float = 60.0) -> None:
        """Wait until the API server says that it is ready."""

        def probe() -> bool:
            self.etcd.process.check()
            self.api_server.check()
            try:
                return self.request("GET", "/readyz")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        wait("kube-apiserver ready", probe, seconds, hint=self.api_server.tail)

    def restart(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End the API server by SIGKILL (connections break) or SIGTERM (it drains its watches), start it again on the same port."""
        self.api_server.stop(with_signal)
        self.api_server.start()
        self.ready()

    def pause(self) -> None:
        """Stop the API server where it stands: connections stay open, nobody answers."""
        self.api_server.pause()

    def resume(self) -> None:
        self.api_server.resume()

    # -- use ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def ca(self) -> Path:
        """The authority of the API server's certificate, PEM."""
        return self._authority.pair.certificate

    @property
    def environ(self) -> dict[str, str]:
        """The environment for a program that is to find this cluster through KUBECONFIG; kubectl of this version comes first."""
        path = f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None, seconds: float = 120.0
    ) -> str:
        """Run kubectl as the admin (or whom the kubeconfig names) and return its output; raises `RigError` with what it says."""
        command = [str(self.folder / "bin" / "kubectl"), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        done = subprocess.run(
            command, input=stdin, env=self.environ, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            raise RigError(
                f"kubectl {' '.join(arguments)}: status {done.returncode}\n{done.stderr}{done.stdout}".rstrip()
            )
        return done.stdout

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply these objects as the admin, server-side."""
        text = yaml.safe_dump_all(documents, sort_keys=False)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def serve_kinds(self) -> None:
        """Install the kinds of the API group, and wait until each can be listed: established comes before that."""
        self.apply(*map(crd, KINDS))
        paths = [f"/apis/{API_VERSION}/{kind.kind_info.plural}" for kind in KINDS]
        self.wait("every kind served", lambda: all(self.request("GET", path)[0] == 200 for path in paths), 60)

    def request(self, method: str, path: str, body: object = None, *, token: str = "") -> tuple[int, bytes]:
        """Send one request as the admin, or with only this bearer token; return status and body."""
        context = ssl.create_default_context(cafile=str(self.ca))
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        else:
            context.load_cert_chain(self._admin.certificate, self._admin.key)
        connection = http.client.HTTPSConnection(self.address, self.port, context=context, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str:
        """Create a fresh namespace and return its name."""
        self._namespaces += 1
        name = f"{prefix}-{self._namespaces}"
        self.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        return name

    def service_account(self, namespace: str, name: str) -> None:
        """Create a ServiceAccount; it may do nothing."""
        self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    def token(self, namespace: str, service_account: str, seconds: int = 3600, audiences: Sequence[str] = ()) -> str:
        """Return a new token of this ServiceAccount (TokenRequest); the API server refuses less than 600 seconds."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        spec: dict[str, object] = {"expirationSeconds": seconds}
        if audiences:
            spec["audiences"] = list(audiences)
        answer = self.create(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
        return str(answer["status"]["token"])

    def create(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Post a document as the admin and return what the API server made of it; raises `RigError` when it refuses."""
        status, answer = self.request("POST", path, document)
        if status not in {200, 201}:
            raise RigError(f"POST {path}: {status} {answer.decode(errors='replace')}")
        created: dict[str, Any] = json.loads(answer)
        return created

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig that authenticates as this user of these groups by a client certificate."""
        name = f"user-{len(list(self._keys.glob('user-*.crt')))}"
        return self._kubeconfig(name, self._authority.issue(name, user, groups))

    def kubeconfig_with(self, token: str) -> Path:
        """Return a kubeconfig that authenticates by this bearer token."""
        name = f"token-{len(list(self._keys.glob('token-*.kubeconfig')))}"
        return self._kubeconfig(name, token)

    def wait(self, what: str, check: Callable[[], Found | None], seconds: float = 30.0) -> Found:
        """Ask until the answer is true in the sense of `if` and return it; raises `RigError` when time is over."""
        return wait(what, check, seconds)

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit events in the log file so far, whole lines only."""
        if not self.audit_log.exists():
            return []
        whole, _, _ = self.audit_log.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    # -- how ---------------------------------------------------------------------------------------------------------

    def _write_keys(self) -> None:
        self.port = free_port()
        self._keys = self.folder / "keys"
        self._keys.mkdir(mode=0o700)
        self._authority = Authority(self._keys, "ca")
        self._front = Authority(self._keys, "front-proxy-ca")
        self._accounts = service_accounts(self._keys)
        self._server = self._authority.issue("apiserver", "kube-apiserver", hosts=self._hosts())
        masters = ("system:masters",)
        self._to_kubelet = self._authority.issue("kubelet-client", "kube-apiserver-kubelet-client", masters)
        self._admin = self._authority.issue("admin", "admin", masters)
        self._proxy = self._front.issue("front-proxy-client", "front-proxy-client")
        self.kubeconfig = self._kubeconfig("admin", self._admin)

    def _hosts(self) -> list[str]:
        """Return the names and addresses by which the API server is reached."""
        first = self.services.partition("/")[0].rpartition(".")[0] + ".1"
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        return ["localhost", *dict.fromkeys(["127.0.0.1", self.address, first]), *names]

    def _kubeconfig(self, name: str, credentials: Pair | str) -> Path:
        """Write a kubeconfig that holds all it needs and return its path."""

        def embed(path: Path) -> str:
            return base64.b64encode(path.read_bytes()).decode()

        user = (
            {"token": credentials}
            if isinstance(credentials, str)
            else {
                "client-certificate-data": embed(credentials.certificate),
                "client-key-data": embed(credentials.key),
            }
        )
        cluster = {"server": self.url, "certificate-authority-data": embed(self.ca)}
        return _write_kubeconfig(self._keys / f"{name}.kubeconfig", cluster, user)

    def _command(self) -> list[str]:
        flags = [
            f"--etcd-servers={self.etcd.url}",
            f"--secure-port={self.port}",
            f"--bind-address={self.address}",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self.ca}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._accounts.certificate}",
            f"--service-account-signing-key-file={self._accounts.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            # Without it SIGTERM takes a minute: open watches are waited for until the request timeout.
            "--shutdown-watch-termination-grace-period=1s",
            f"--service-cluster-ip-range={self.services}",
            f"--kubelet-client-certificate={self._to_kubelet.certificate}",
            f"--kubelet-client-key={self._to_kubelet.key}",
            f"--kubelet-certificate-authority={self.ca}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={self._front.pair.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self._proxy.certificate}",
            f"--proxy-client-key-file={self._proxy.key}",
            # Webhooks are called at their endpoints: this API server stands outside of kube-proxy.
            "--enable-aggregator-routing=true",
            f"--audit-policy-file={self.options.audit_policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-format=json",
            "--audit-log-mode=blocking",
            *self._webhook(),
        ]
        return [str(self.folder / "bin" / "kube-apiserver"), *flags, *self.options.flags.get("kube-apiserver", ())]

    def _webhook(self) -> list[str]:
        sink = self.options.audit_webhook
        if sink is None:
            return []
        cluster: dict[str, str] = {"server": sink.url}
        if sink.ca is not None:
            cluster["certificate-authority"] = str(sink.ca)
        user: dict[str, str] = {}
        if sink.token:
            user["token"] = sink.token
        if sink.client is not None:
            user |= {"client-certificate": str(sink.client.certificate), "client-key": str(sink.client.key)}
        path = _write_kubeconfig(self._keys / "audit-webhook.kubeconfig", cluster, user)
        return [
            f"--audit-webhook-config-file={path}",
            "--audit-webhook-mode=batch",
            f"--audit-webhook-batch-max-wait={sink.max_wait}",
            "--audit-webhook-initial-backoff=500ms",
        ]


class ControlPlane(ApiServer):
    """The API with kube-controller-manager and kube-scheduler: namespaces end, garbage is collected, Jobs make Pods."""

    size = "control-plane"
    pods = "10.244.0.0/16"

    def _start(self) -> None:
        super()._start()
        self.controllers = self._follower("kube-controller-manager", *self._controller_flags())
        self.scheduler = self._follower("kube-scheduler")
        self.controllers.start()
        self.scheduler.start()
        self._account("default")

    def namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str:
        """Create a fresh namespace, wait for its `default` ServiceAccount (else Pods are refused), return its name."""
        name = super().namespace(prefix, labels)
        self._account(name)
        return name

    def restart(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Restart the API server; the controllers find it again by themselves."""
        super().restart(with_signal)
        self.controllers.check()
        self.scheduler.check()

    def _account(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"

        def there() -> bool:
            self.controllers.check()
            self.scheduler.check()
            return self.request("GET", path)[0] == 200

        wait(f"serviceaccount/default in {namespace}", there, 60, hint=self.controllers.tail)

    def _follower(self, name: str, *flags: str) -> Process:
        """Return a program that works on the API under its own name."""
        kubeconfig = self._kubeconfig(name, self._authority.issue(name, f"system:{name}"))
        return self.ground.process(
            name,
            str(self.folder / "bin" / name),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
            # With the usual 20 a second the first ServiceAccount takes twice as long, and kwok's Pods an hour.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            *flags,
            *self.options.flags.get(name, ()),
        )

    def _controller_flags(self) -> list[str]:
        return [
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._accounts.key}",
            f"--root-ca-file={self.ca}",
            f"--cluster-signing-cert-file={self.ca}",
            f"--cluster-signing-key-file={self._authority.pair.key}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={self.pods}",
            f"--service-cluster-ip-range={self.services}",
        ]


def _write_kubeconfig(path: Path, cluster: Mapping[str, str], user: Mapping[str, str]) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": dict(cluster)}],
        "users": [{"name": "rig", "user": dict(user)}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig"}}],
        "current-context": "rig",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
