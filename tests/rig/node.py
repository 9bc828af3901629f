"""A cluster with one real node: Pods run, the network is cut by policies, names resolve, exec and logs work.

The node lives on this machine in network, mount, PID, UTS and IPC namespaces of its own (`node-init.sh`), so one kill ends it and the
machine keeps neither rule nor mount nor container. From here its files lie below `<folder>/state`, its processes are in `/proc`,
Pods and Services are reached directly. It reaches nothing but this machine: there is no registry and no upstream resolver.
"""

import http.client
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.rig import documents, go, images, keeper, packages
from tests.rig.cluster import ControlPlane
from tests.rig.ground import RigError, wait

INIT = Path(__file__).parent / "node-init.sh"
WATCHES = 8192
POLICY_PORT = 20244


class Node(ControlPlane):
    """The control plane with containerd, kubelet, kube-proxy, kube-router and CoreDNS.

    A Pod's cgroups lie below `/<name of the cluster>/kubepods`, not `/kubepods`: two nodes do not share a machine's groups.
    """

    size = "node"
    name = "node-1"

    @property
    def state(self) -> Path:
        """The folder that holds the node's `/run`, `/var/log`, `/var/lib/kubelet` and so on."""
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        """The socket of containerd, as this machine reaches it."""
        return self.state / "run" / "containerd" / "containerd.sock"

    def load(self, archive: Path) -> None:
        """Import the images of an OCI or docker archive; Pods use them by the name they have in there."""
        self._ctr("images", "import", str(archive))

    def images(self) -> list[str]:
        """Return the names of the images that Pods can use."""
        return self._ctr("images", "list", "--quiet").split()

    def processes(self, name: str) -> list[int]:
        """Return the ids, on this machine, of the node's programs of this name (`kubelet`, `containerd`); killed, they come back."""
        return [pid for pid in keeper.processes(self.folder) if _program(pid) == name]

    def cgroups(self, uid: str, hierarchy: str = "freezer") -> list[Path]:
        """Return a Pod's group and those of its containers in one hierarchy of this machine, the Pod's first."""
        top = keeper.CGROUPS / hierarchy / self.ground.name / "kubepods"
        pods = [*top.glob(f"pod{uid}"), *top.glob(f"*/pod{uid}")]
        return [group for pod in pods for group in (pod, *sorted(path for path in pod.rglob("*") if path.is_dir()))]

    def pod_processes(self, uid: str) -> list[int]:
        """Return the ids, on this machine, of a Pod's processes, its sandbox's included."""
        groups = self.cgroups(uid, "pids")
        return sorted(int(pid) for group in groups for pid in (group / "cgroup.procs").read_text().split())

    # -- how ---------------------------------------------------------------------------------------------------------

    def _provide(self) -> None:
        packages.provide()
        super()._provide()
        go.provide(go.KUBE_ROUTER)
        self._archives = [
            images.kept("pause-1", images.pause),
            images.kept(f"coredns-{go.COREDNS.version}", images.coredns),
        ]

    def _write_keys(self) -> None:
        # A number of its own for each cluster: the routes to their Pods share this machine's table.
        number = self.ground.number
        self.address, self.node_address = f"10.99.{number}.1", f"10.99.{number}.2"
        self.services, self.pods = f"10.96.{number}.0/24", f"10.244.{number}.0/24"
        self.dns = f"10.96.{number}.10"
        super()._write_keys()
        node = self._authority.issue(
            "node", f"system:node:{self.name}", ["system:nodes"], [self.name, self.node_address]
        )
        self._kubeconfig("node", node)
        proxy = self._kubeconfig("kube-proxy", self._authority.issue("kube-proxy", "system:kube-proxy"))
        self._kubeconfig("kube-router", self._authority.issue("kube-router", "system:kube-router"))
        resolver = self.folder / "resolv.conf"
        kubelet = documents.kubelet(self.ca, node.certificate, node.key, self.dns, self.ground.name, resolver)
        documents.write(
            self.folder,
            {
                "resolv.conf": "",
                "containerd.toml": documents.containerd(),
                "kubelet.yaml": kubelet,
                "kube-proxy.yaml": documents.kube_proxy(proxy, self.name, self.pods),
                "state/etc/cni/net.d/10-rig.conflist": documents.network(self.pods),
            },
        )

    def _start(self) -> None:
        (self.folder / "bin" / "kube-router").symlink_to(go.provide(go.KUBE_ROUTER))
        self._raise_limit()
        for hierarchy in keeper.CGROUPS.iterdir():
            if hierarchy.is_dir() and not hierarchy.is_symlink():
                (hierarchy / self.ground.name).mkdir()
        inside = ["--net", "--mount", "--propagation=private", "--pid", "--uts", "--ipc", "--mount-proc"]
        # `ip netns` would leave a mount on the machine, and its `exec` replaces /sys with the cgroups in it.
        own = ["unshare", *inside, "--fork", "--kill-child", "bash", str(INIT)]
        addresses = [self.address, self.node_address, self.services]
        self.init = self.ground.process(
            "node", *own, str(self.folder), self.name, *addresses, *map(str, self._archives)
        )
        self.init.start()
        self._connect()
        super()._start()
        # The runtime has come up meanwhile; the kubelet waits for this file.
        (self.folder / "api-ready").touch()
        self.apply(*documents.routing(), *documents.dns(self.dns))
        self._until(f"node {self.name} Ready", self._node_ready, "kubelet")
        self._until("network policies in force", self._policies_ready, "kube-router")
        self._until("cluster DNS available", self._dns_ready, "kubelet")

    def _connect(self) -> None:
        """Make the link to the node, and the ways to its Pods and Services."""
        name, namespace = self.ground.name, Path(f"/proc/{self.init.pid}/ns/net")
        wait("a network namespace", lambda: namespace.readlink() != Path("/proc/self/ns/net").readlink(), every=0.01)
        _run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(self.init.pid)])
        _run(["ip", "address", "add", f"{self.address}/30", "dev", name])
        _run(["ip", "link", "set", name, "up"])
        _run(["ip", "route", "replace", self.pods, "via", self.node_address])
        _run(["ip", "route", "replace", self.services, "via", self.node_address])

    def _raise_limit(self) -> None:
        """Raise the machine's limit of inotify instances: the usual 128 run out with a kubelet. The keeper puts it back."""
        others = [int(path.read_text()) for path in self.folder.parent.glob("ug-*/inotify")]
        found = int(keeper.INOTIFY.read_text())
        (self.folder / "inotify").write_text(str(min([found, *others])))
        if found < WATCHES:
            keeper.INOTIFY.write_text(str(WATCHES))

    def _ctr(self, *arguments: str) -> str:
        return _run(["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments])

    def _node_ready(self) -> bool:
        status, answer = self.request("GET", f"/api/v1/nodes/{self.name}")
        if status != 200:
            return False
        conditions = json.loads(answer)["status"].get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _policies_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.node_address, POLICY_PORT, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _dns_ready(self) -> bool:
        _, answer = self.request("GET", "/apis/apps/v1/namespaces/kube-system/deployments/coredns")
        return bool(json.loads(answer).get("status", {}).get("availableReplicas"))

    def _until(self, what: str, check: Callable[[], bool], log: str) -> None:
        def answer() -> bool:
            self.init.check()
            return check()

        def hint() -> str:
            path = self.ground.log / f"{log}.log"
            last = path.read_text(errors="replace").splitlines()[-15:] if path.exists() else ["there is none"]
            return "\n".join([self.init.tail(), f"--- end of {path.name}", *last])

        wait(what, answer, 90, every=0.1, hint=hint)


def _program(pid: int) -> str:
    """Return what a process was started as; "" when it is gone."""
    try:
        first, _, _ = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")
    except OSError:
        return ""
    return Path(first.decode(errors="replace")).name


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"`{' '.join(command)}`: {done.stderr.strip()}")
    return done.stdout
