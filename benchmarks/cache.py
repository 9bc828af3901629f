"""A cache of 10,000 Pods, beside kubernetes_asyncio's models and lightkube: `python -m benchmarks.cache [--rig]`.

Each runs in a process of its own against the same server: resident memory before and after the list, its time, then
changes of Pods through the watch, by the client's own CPU seconds. The bars for ours: less than 60 MiB above rest, the
list in 3 s, 20,000 changes a second and core.

    python -m benchmarks.cache                  a server of recorded bytes on the other core: what the clients cost
    python -m benchmarks.cache --rig            kube-apiserver and etcd, started by tests/rig
    python -m benchmarks.cache --kubeconfig F   any API server; makes Pods in the namespace `bench` that never run

Who is not installed is left out and named: `pip install lightkube`.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio

from benchmarks.pods import pod, status, stored

NAMESPACE = "bench"
PAGE = 500
PARALLEL = 64
SIDES = {"ugallu": "ugallu", "kubernetes_asyncio": "kubernetes_asyncio", "lightkube": "lightkube"}
"""What is measured, and the module that must be there for it."""


class Meter:
    """What one client costs: a line of JSON when the list is in, and one when the changes are."""

    def __init__(self, changes: int) -> None:
        gc.collect()
        self._rest, self._begun, self._cpu = resident(), time.monotonic(), time.process_time()
        self._left = self._changes = changes
        self._first = 0.0
        self.over = anyio.Event()

    def listed(self, count: int) -> None:
        """The list is in."""
        wall, cpu = time.monotonic() - self._begun, time.process_time() - self._cpu
        peak = resident("VmHWM")
        gc.collect()
        say(pods=count, list=wall, list_cpu=cpu, rest=self._rest, above=resident() - self._rest, peak=peak - self._rest)

    def seen(self, is_change: bool) -> None:
        """Something was told, which need not be a change."""
        if is_change:
            self.changed()

    def changed(self) -> bool:
        """A change is in; tell whether it was the last."""
        if self._left == self._changes:
            self._first = time.process_time()
        self._left -= 1
        if self._left == 0:
            say(changes=self._changes / (time.process_time() - self._first))
            self.over.set()
        return self._left <= 0


def resident(what: str = "VmRSS") -> float:
    """Memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {what} here")


def say(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


# The three clients


async def ugallu(kubeconfig: str, changes: int) -> None:
    from ugallu.api.core import Pod
    from ugallu.clock import SystemClock
    from ugallu.cluster.cache import SharedCache
    from ugallu.cluster.kubernetes.auth import from_kubeconfig
    from ugallu.cluster.kubernetes.client import KubernetesCluster
    from ugallu.cluster.port import Change
    from ugallu.metrics import Metrics

    clock, metrics = SystemClock(), Metrics()
    cluster = await KubernetesCluster.open(from_kubeconfig(kubeconfig), clock=clock, metrics=metrics)
    await cluster.version()
    cache = SharedCache(cluster, clock=clock, metrics=metrics)
    meter = Meter(changes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        view = cache.view(Pod)
        view.index("ip", lambda pod: (each.ip for each in pod.status.pod_ips))
        await view.synced()
        meter.listed(len(tuple(view.items())))
        view.listen(lambda change, _: meter.seen(change is Change.MODIFIED))
        await meter.over.wait()
        tasks.cancel_scope.cancel()
    await cluster.close()


async def kubernetes_asyncio(kubeconfig: str, changes: int) -> None:
    client, config = import_module("kubernetes_asyncio.client"), import_module("kubernetes_asyncio.config")
    watch = import_module("kubernetes_asyncio.watch")
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient() as connection:
        pods = client.CoreV1Api(connection)
        meter = Meter(changes)
        held: dict[str, Any] = {}
        token, version = None, ""
        while token != "":
            page = await pods.list_pod_for_all_namespaces(limit=PAGE, _continue=token)
            held.update((item.metadata.uid, item) for item in page.items)
            token, version = page.metadata.to_dict()["_continue"] or "", page.metadata.resource_version
        meter.listed(len(held))
        async with watch.Watch() as stream:
            async for event in stream.stream(pods.list_pod_for_all_namespaces, resource_version=version):
                held[event["object"].metadata.uid] = event["object"]
                if meter.changed():
                    return


async def lightkube(kubeconfig: str, changes: int) -> None:
    library, Pod = import_module("lightkube"), import_module("lightkube.resources.core_v1").Pod  # noqa: N806 - a class
    client = library.AsyncClient(library.KubeConfig.from_file(kubeconfig))
    meter = Meter(changes)
    listing = client.list(Pod, namespace="*", chunk_size=PAGE)
    held = {item.metadata.uid: item async for item in listing}
    version = listing.resourceVersion
    meter.listed(len(held))
    async for _, item in client.watch(Pod, namespace="*", resource_version=version):
        held[item.metadata.uid] = item
        if meter.changed():
            return


# The server of recorded bytes


class Recorded:
    """Serves a list of Pods in pages, and to every watch the same changes of them; nothing else."""

    def __init__(self, pods: int, changes: int) -> None:
        self._pods = [stored(number, number + 1) for number in range(pods)]
        self._version = pods
        kinds = (stored(number % pods, pods + number + 1) for number in range(changes))
        self._changes = [b'{"type":"MODIFIED","object":%b}\n' % document for document in kinds]

    async def run(self) -> None:
        """Serve until killed; the port is on stdout."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        say(port=server.sockets[0].getsockname()[1])
        await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                url = urlsplit(request.split(b" ", 2)[1].decode())
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                if url.path == "/version":
                    self._answer(writer, b'{"major":"1","minor":"34","gitVersion":"v1.34.0"}')
                elif url.path != "/api/v1/pods":
                    self._answer(writer, b'{"kind":"Status","code":404,"status":"Failure"}', "404 Not Found")
                elif "sendInitialEvents" in query:
                    refused = (
                        b'{"kind":"Status","code":422,"status":"Failure","reason":"Invalid","message":"no lists here"}'
                    )
                    self._answer(writer, refused, "422 Unprocessable Entity")
                elif query.get("watch", "false").lower() in ("true", "1"):
                    await self._watch(writer)
                else:
                    self._answer(writer, self._page(int(query.get("continue", 0)), int(query.get("limit", 0))))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _page(self, start: int, limit: int) -> bytes:
        end = start + limit if limit else len(self._pods)
        token = str(end) if end < len(self._pods) else ""
        metadata = json.dumps({"resourceVersion": str(self._version), "continue": token}).encode()
        return b'{"kind":"PodList","metadata":%b,"items":[%b]}' % (metadata, b",".join(self._pods[start:end]))

    def _answer(self, writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in self._changes:
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            await writer.drain()
        await asyncio.sleep(3600)


# The Pods of a real server


async def make(kubeconfig: str, count: int) -> None:
    """Create what is missing of so many Pods, each with the status of one that runs."""
    client, config = import_module("kubernetes_asyncio.client"), import_module("kubernetes_asyncio.config")
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient(pool_threads=1) as connection:
        core = client.CoreV1Api(connection)

        async def settle(call: Any) -> None:  # noqa: ANN401 - a coroutine of theirs
            try:
                await call
            except client.ApiException as error:
                if error.status != 409:
                    raise

        named = {"metadata": {"name": NAMESPACE}}
        await settle(core.create_namespace(named))
        await settle(core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": "default"}}))

        async def one(number: int) -> None:
            body = pod(number, NAMESPACE)
            await settle(core.create_namespaced_pod(NAMESPACE, body))
            name, body = body["metadata"]["name"], {"status": status(number)}
            await core.patch_namespaced_pod_status(name, NAMESPACE, body, _content_type="application/merge-patch+json")

        await _in_parallel(range(count), one)
        # Whoever lists first would otherwise wait for what the server has yet to do once.
        await core.list_pod_for_all_namespaces(_preload_content=False)


async def touch(kubeconfig: str, pods: int, changes: int) -> None:
    """Change Pods one after the other, many at a time."""
    client, config = import_module("kubernetes_asyncio.client"), import_module("kubernetes_asyncio.config")
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient(pool_threads=1) as connection:
        core = client.CoreV1Api(connection)

        async def one(number: int) -> None:
            body = {"metadata": {"annotations": {"bench.example.org/touched": f"{time.monotonic_ns()}-{number}"}}}
            name = pod(number % pods)["metadata"]["name"]
            await core.patch_namespaced_pod(name, NAMESPACE, body, _content_type="application/merge-patch+json")

        await _in_parallel(range(changes), one)


async def _in_parallel(numbers: range, one: Any) -> None:  # noqa: ANN401 - a coroutine function of a number
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await one(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(PARALLEL):
            tasks.start_soon(worker)


# Side by side


def child(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "benchmarks.cache", *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def recorded(pods: int, changes: int) -> Iterator[str]:
    """Return the kubeconfig of a server of recorded bytes."""
    with tempfile.TemporaryDirectory() as folder, child("--serve", f"--pods={pods}", f"--changes={changes}") as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        path = Path(folder) / "kubeconfig"
        cluster, user, both = {"server": f"http://127.0.0.1:{port}"}, {"token": "none"}, {"cluster": "c", "user": "u"}
        # JSON is YAML.
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": both}],
        }
        path.write_text(json.dumps(document))
        try:
            yield str(path)
        finally:
            server.kill()


@contextmanager
def rig() -> Iterator[str]:
    """Return the kubeconfig of a real API server."""
    from tests.rig.cluster import ApiServer

    with ApiServer() as cluster:
        yield str(cluster.kubeconfig)


def compare(kubeconfig: str, pods: int, changes: int, *, real: bool) -> None:
    """Measure each client in turn, and print a line each."""
    scale = (f"--pods={pods}", f"--changes={changes}", f"--kubeconfig={kubeconfig}")
    if real:
        begun = time.monotonic()
        child("--make", *scale).wait()
        print(f"{pods} Pods are there after {time.monotonic() - begun:.0f} s")
    for side, module in SIDES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{side}: not installed")
            continue
        with child("--side", side, *scale) as process:
            assert process.stdout is not None
            figures = json.loads(process.stdout.readline())
            if real:
                with child("--touch", *scale):
                    pass
            figures |= json.loads(process.stdout.readline())
        print(
            f"{side:<20}{figures['pods']:.0f} Pods in {figures['list']:5.2f} s ({figures['list_cpu']:5.2f} s of CPU), "
            f"{figures['above']:6.1f} MiB above {figures['rest']:.1f} at rest (peak {figures['peak']:6.1f}), "
            f"{figures['changes']:7.0f} changes/s and core",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument(
        "--changes", type=int, default=0, help="default: twice the Pods, a fifth of them with a real server"
    )
    parser.add_argument("--kubeconfig", default="")
    parser.add_argument("--rig", action="store_true")
    for inner in ("--serve", "--make", "--touch"):
        parser.add_argument(inner, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    real = bool(asked.rig or asked.kubeconfig)
    changes = asked.changes or (asked.pods // 5 if real else asked.pods * 2)
    if asked.serve:
        asyncio.run(Recorded(asked.pods, changes).run())
    elif asked.make:
        asyncio.run(make(asked.kubeconfig, asked.pods))
    elif asked.touch:
        asyncio.run(touch(asked.kubeconfig, asked.pods, changes))
    elif asked.side:
        asyncio.run(globals()[asked.side](asked.kubeconfig, changes))
    elif asked.kubeconfig:
        compare(asked.kubeconfig, asked.pods, changes, real=True)
    else:
        with rig() if asked.rig else recorded(asked.pods, changes) as kubeconfig:
            compare(kubeconfig, asked.pods, changes, real=real)


if __name__ == "__main__":
    main()
