"""Commands, logs and ephemeral containers of real Pods on a real node."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from tests.rig import images
from tests.rig.node import Node
from ugallu.cluster.kubernetes import auth
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.pods import Target
from ugallu.cluster.port import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def shell(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """Return a container that reads lines and says them back; it began by counting to three."""
    node.load(images.busybox(tmp_path_factory.mktemp("images")))
    namespace = node.namespace("shell")
    program = "for n in 1 2 3; do echo line $n; done; while read line; do echo heard $line; done; exec sleep 100000"
    container = {"name": "main", "image": images.BUSYBOX, "command": ["sh", "-c", program], "stdin": True}
    node.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "shell", "namespace": namespace},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        }
    )
    node.kubectl("wait", "--for=condition=Ready", "pod/shell", "-n", namespace, "--timeout=60s")
    return Target(namespace, "shell", "main")


@pytest.fixture
async def cluster(node: Node) -> AsyncIterator[KubernetesCluster]:
    made = await KubernetesCluster.open(auth.from_kubeconfig(node.kubeconfig))
    yield made
    await made.close()


async def test_a_command_is_run_to_its_end(cluster: KubernetesCluster, shell: Target) -> None:
    """Both outputs come back whole and apart, with the exit status."""
    done = await cluster.pods.run(shell, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert done == type(done)(b"out\n", b"err\n", 7)
    assert (await cluster.pods.run(Target(shell.namespace, shell.pod), ["true"])).status == 0


async def test_stdin_is_written_and_ended(cluster: KubernetesCluster, shell: Target) -> None:
    """A megabyte goes in and comes out as it was; the command sees the end of its input."""
    data = bytes(range(256)) * 4096
    done = await cluster.pods.run(shell, ["cat"], stdin=data, limit=2 << 20)
    assert done.stdout == data
    assert done.status == 0
    assert int((await cluster.pods.run(shell, ["wc", "-c"], stdin=data)).stdout) == len(data)


async def test_a_command_is_held_to_its_limits(cluster: KubernetesCluster, shell: Target) -> None:
    """Too much output and too much time are errors, and the next command runs as if nothing had been."""
    with pytest.raises(InvalidError, match="longer than 1000 bytes"):
        await cluster.pods.run(shell, ["yes"], limit=1000)
    begun = anyio.current_time()
    with pytest.raises(UnavailableError, match="within 1 s"):
        await cluster.pods.run(shell, ["sleep", "100"], within=1.0)
    assert anyio.current_time() - begun < 3
    assert (await cluster.pods.run(shell, ["echo", "x"])).stdout == b"x\n"


async def test_what_cannot_be_run_is_said(cluster: KubernetesCluster, shell: Target, node: Node) -> None:
    """No such program, container or Pod, and no right to: an error of the port each."""
    with pytest.raises(InvalidError, match="no-such-program"):
        await cluster.pods.run(shell, ["no-such-program"])
    with pytest.raises(NotFoundError):
        await cluster.pods.run(Target(shell.namespace, "no-such-pod"), ["true"])
    with pytest.raises((InvalidError, NotFoundError, UnavailableError)):
        await cluster.pods.run(Target(shell.namespace, shell.pod, "no-such-container"), ["true"])
    stranger = await KubernetesCluster.open(auth.from_kubeconfig(node.kubeconfig_for("stranger")))
    with pytest.raises(ForbiddenError):
        await stranger.pods.run(shell, ["true"])
    await stranger.close()


async def test_a_session_is_spoken_with(cluster: KubernetesCluster, shell: Target) -> None:
    """What is sent is answered while the command runs, and its status comes last."""
    async with cluster.pods.exec(shell, ["sh", "-c", "read a; echo got $a; read b; exit $b"]) as session:
        await session.send(b"one\n")
        async with aclosing(session.output()) as output:  # type: ignore[type-var]
            async for channel, data in output:
                assert (channel, data) == (1, b"got one\n")
                await session.send(b"5\n")
        assert await session.status() == 5


async def test_a_container_is_attached_to(cluster: KubernetesCluster, shell: Target) -> None:
    """The main process hears what is sent and its output arrives."""
    heard = b""
    with anyio.fail_after(20):
        async with cluster.pods.attach(shell) as session:
            await session.send(b"hello\n")
            async with aclosing(session.output()) as output:  # type: ignore[type-var]
                async for _, data in output:
                    heard += data
                    if b"heard hello\n" in heard:
                        break


async def test_a_log_is_read_whole_in_part_and_as_it_grows(cluster: KubernetesCluster, shell: Target) -> None:
    """All of it, its last lines, and with `follow` also what comes later."""
    first = b"line 1\nline 2\nline 3\n"
    whole = b"".join([chunk async for chunk in cluster.pods.logs(shell)])
    assert whole.startswith(first)
    last = b"".join([chunk async for chunk in cluster.pods.logs(shell, tail=1)])
    assert last == whole.splitlines(keepends=True)[-1]
    assert b"".join([chunk async for chunk in cluster.pods.logs(shell, since_seconds=3600)]) == whole
    seen = b""
    with anyio.fail_after(20):
        log = cluster.pods.logs(shell, follow=True)
        async with cluster.pods.attach(shell) as session, aclosing(log) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if not seen:
                    await session.send(b"later\n")
                seen += chunk
                if seen.endswith(b"heard later\n"):
                    break
    with pytest.raises(InvalidError):
        async for _ in cluster.pods.logs(shell, previous=True):
            pass
    with pytest.raises(NotFoundError):
        async for _ in cluster.pods.logs(Target(shell.namespace, "no-such-pod")):
            pass


async def test_an_ephemeral_container_is_added_once(cluster: KubernetesCluster, shell: Target, node: Node) -> None:
    """It reads its target's files; the same one again is success, another one of its name is refused, a second joins."""
    container = {
        "name": "looker",
        "image": images.BUSYBOX,
        "command": ["sleep", "100000"],
        "targetContainerName": "main",
        "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
    }
    for _ in range(2):
        await cluster.pods.add_ephemeral(shell.namespace, shell.pod, container)
    with pytest.raises(AlreadyExistsError):
        await cluster.pods.add_ephemeral(shell.namespace, shell.pod, {**container, "command": ["sleep", "1"]})
    await cluster.pods.add_ephemeral(shell.namespace, shell.pod, {**container, "name": "second"})
    said = json.loads(node.kubectl("get", "pod", shell.pod, "-n", shell.namespace, "-o", "json"))
    assert sorted(each["name"] for each in said["spec"]["ephemeralContainers"]) == ["looker", "second"]
    node.wait("it runs", lambda: _running(node, shell, "looker"))
    done = await cluster.pods.run(Target(shell.namespace, shell.pod, "looker"), ["cat", "/proc/1/comm"])
    assert done.stdout == b"sh\n"
    with pytest.raises(NotFoundError):
        await cluster.pods.add_ephemeral(shell.namespace, "no-such-pod", container)
    with pytest.raises(InvalidError):
        await cluster.pods.add_ephemeral(shell.namespace, shell.pod, {"name": "broken"})


def _running(node: Node, target: Target, container: str) -> bool:
    said = json.loads(node.kubectl("get", "pod", target.pod, "-n", target.namespace, "-o", "json"))
    states = said["status"].get("ephemeralContainerStatuses", ())
    return any(each["name"] == container and "running" in each["state"] for each in states)
