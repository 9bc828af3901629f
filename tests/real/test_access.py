"""Tokens that end, certificates, plug-ins and servers that stop, on a real API server."""

import json
import ssl
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
import yaml

from tests.rig.cluster import ApiServer
from ugallu.api.core import Lease
from ugallu.api.meta import Kind, Metadata, Resource
from ugallu.cluster.kubernetes import auth
from ugallu.cluster.kubernetes.auth import Access
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.kubernetes.http import Patience
from ugallu.cluster.port import ForbiddenError, NotFoundError, OutdatedError, Preconditions, UnavailableError, list_all
from ugallu.metrics import Metrics
from ugallu.testing.clock import ManualClock

pytestmark = pytest.mark.real


class ConfigMap(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Kind("ConfigMap", "configmaps", group="", version="v1", namespaced=True)
    data: dict[str, str] = {}


@asynccontextmanager
async def opened(access: Access, **more: Any) -> AsyncIterator[KubernetesCluster]:
    cluster = await KubernetesCluster.open(access, **more)
    try:
        yield cluster
    finally:
        await cluster.close()


def account(api: ApiServer, namespace: str, name: str) -> None:
    """Make a ServiceAccount that may read and write ConfigMaps of its namespace."""
    api.service_account(namespace, name)
    verbs = "--verb=get,list,watch,create,patch,delete"
    api.kubectl("create", "role", name, verbs, "--resource=configmaps", "-n", namespace)
    api.kubectl(
        "create", "rolebinding", name, f"--role={name}", f"--serviceaccount={namespace}:{name}", "-n", namespace
    )


async def until_allowed(cluster: KubernetesCluster, namespace: str) -> None:
    """Rights take a moment to arrive."""
    with anyio.fail_after(20):
        while True:
            try:
                await cluster.list(ConfigMap, namespace=namespace)
            except ForbiddenError:
                await anyio.sleep(0.1)
            else:
                return


async def test_a_pod_reaches_its_api_server(api: ApiServer, tmp_path: Path) -> None:
    """With what kubelet mounts: token, CA and namespace. A token that was revoked is Forbidden until kubelet brings a new one,
    which is taken at once."""
    namespace = api.namespace()
    account(api, namespace, "one")
    account(api, namespace, "two")
    (tmp_path / "ca.crt").write_bytes(api.ca.read_bytes())
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "token").write_text(api.token(namespace, "one"))
    async with opened(auth.in_cluster(f"127.0.0.1:{api.port}", tmp_path, clock=ManualClock())) as cluster:
        assert cluster.namespace == namespace
        await until_allowed(cluster, namespace)
        await cluster.create(ConfigMap(metadata=Metadata(name="a", namespace=namespace), data={"k": "v"}))
        with pytest.raises(ForbiddenError, match="cannot list"):
            await cluster.list(Lease, namespace=namespace)
        api.kubectl("delete", "serviceaccount", "one", "-n", namespace)
        await _refused(cluster, namespace)
        (tmp_path / "token").write_text(api.token(namespace, "two"))
        await until_allowed(cluster, namespace)
        assert (await cluster.get(ConfigMap, "a", namespace)).data == {"k": "v"}


async def _refused(cluster: KubernetesCluster, namespace: str) -> None:
    """An API server believes a token for some seconds more."""

    async def answer() -> str:
        try:
            await cluster.list(ConfigMap, namespace=namespace)
        except ForbiddenError as error:
            return f"{error.what} {error.fix}"
        return ""

    with anyio.fail_after(60):
        while not (told := await answer()):  # noqa: ASYNC110 - of a server
            await anyio.sleep(0.3)
    assert "Unauthorized" in told or "credentials" in told


async def test_a_plugin_brings_a_new_token_when_the_old_one_is_refused(api: ApiServer, tmp_path: Path) -> None:
    """Calls and watches go on after the first token was revoked, and nobody above notices."""
    namespace = api.namespace()
    for name in ("first", "second"):
        account(api, namespace, name)
        (tmp_path / name).write_text(api.token(namespace, name))
    login = tmp_path / "login"
    login.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import json, os
        first = {str(tmp_path / "first")!r}
        token = open(first if os.path.exists(first) else {str(tmp_path / "second")!r}).read()
        print(json.dumps({{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {{"token": token}}}}))
        """)
    )
    login.chmod(0o700)
    document = yaml.safe_load(api.kubeconfig.read_text())
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": entry}
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(document))
    async with opened(auth.from_kubeconfig(config, environ=api.environ)) as cluster:
        await until_allowed(cluster, namespace)
        made = await cluster.create(ConfigMap(metadata=Metadata(name="a", namespace=namespace)))
        (tmp_path / "first").unlink()
        api.kubectl("delete", "serviceaccount", "first", "-n", namespace)
        with anyio.fail_after(60):
            # The server believes the first token for some seconds more; no call of ours ever fails.
            while not _was_heard(api, f"system:serviceaccount:{namespace}:second"):
                assert await cluster.get(ConfigMap, "a", namespace) == made
                await anyio.sleep(0.3)


def _was_heard(api: ApiServer, user: str) -> bool:
    return any(event["user"].get("username") == user for event in api.audit())


async def test_a_certificate_says_who_we_are(api: ApiServer) -> None:
    """Inline certificate and key are shown in TLS; another user has other rights."""
    async with opened(auth.from_kubeconfig(api.kubeconfig)) as admin:
        await admin.list(ConfigMap)
    async with opened(auth.from_kubeconfig(api.kubeconfig_for("jane"))) as jane:
        with pytest.raises(ForbiddenError, match='User "jane" cannot list'):
            await jane.list(ConfigMap)


async def test_we_may_speak_for_another(api: ApiServer, tmp_path: Path) -> None:
    """An administrator who impersonates sees what the other one may see."""
    document = yaml.safe_load(api.kubeconfig.read_text())
    document["users"][0]["user"] |= {"as": "joe", "as-groups": ["ops"]}
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(document))
    async with opened(auth.from_kubeconfig(config)) as joe:
        with pytest.raises(ForbiddenError, match='User "joe" cannot list'):
            await joe.list(ConfigMap)


async def test_a_server_of_another_authority_is_not_spoken_to(api: ApiServer, tmp_path: Path) -> None:
    """A CA that did not sign the server, and a name that its certificate does not have, stop everything; `insecure` does not."""
    document = yaml.safe_load(api.kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    ca = cluster.pop("certificate-authority-data")

    async def version(**changes: Any) -> str:
        cluster.clear()
        cluster.update({"server": api.url, **changes})
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        async with opened(auth.from_kubeconfig(path)) as made:
            return (await made.version()).git_version

    with pytest.raises(UnavailableError, match="certificate"):
        await version()
    with pytest.raises(UnavailableError, match="certificate"):
        await version(**{"certificate-authority-data": ca, "tls-server-name": "elsewhere"})
    assert await version(**{"certificate-authority-data": ca, "tls-server-name": "kubernetes.default.svc"}) == "v1.34.3"
    assert await version(**{"insecure-skip-tls-verify": True}) == "v1.34.3"
    assert ssl.OPENSSL_VERSION


async def test_questions_are_answered(api: ApiServer) -> None:
    """Version and clock of the server, and paths of it that are no objects."""
    async with opened(auth.from_kubeconfig(api.kubeconfig)) as cluster:
        version = await cluster.version()
        assert version.git_version == "v1.34.3"
        assert version.server_time is not None
        assert b"apiserver_request_total" in await cluster.fetch("/metrics")


async def test_a_stream_is_a_list_and_its_watch(api: ApiServer) -> None:
    """What there is, a bookmark that a watch resumes from, and what comes then: the same as list and watch."""
    namespace = api.namespace()
    async with opened(auth.from_kubeconfig(api.kubeconfig)) as cluster:
        for name in "abc":
            await cluster.create(ConfigMap(metadata=Metadata(name=name, namespace=namespace)))
        listed, _ = await list_all(cluster, ConfigMap, namespace=namespace)
        begun, later = [], []
        with anyio.fail_after(30):
            async with aclosing(cluster.stream(ConfigMap, namespace=namespace)) as notices:  # type: ignore[type-var]
                async for notice in notices:
                    begun.append(notice)
                    if notice.object is None:
                        break
            await cluster.delete(ConfigMap, "b", namespace)
            since = begun[-1].resource_version
            async with aclosing(cluster.watch(ConfigMap, since=since, namespace=namespace)) as notices:  # type: ignore[type-var]
                async for notice in notices:
                    later.append((notice.change.value, notice.object and notice.object.metadata.name))
                    break
    assert sorted(listed, key=lambda item: item.metadata.name) == sorted(
        (notice.object for notice in begun if notice.object is not None), key=lambda item: item.metadata.name
    )
    assert later == [("DELETED", "b")]


async def test_a_delete_takes_dependents_along_and_heeds_what_it_was_told(api: ApiServer) -> None:
    """Uid and resourceVersion guard a delete of Kubernetes' own kinds as well."""
    namespace = api.namespace()
    async with opened(auth.from_kubeconfig(api.kubeconfig)) as cluster:
        made = await cluster.create(ConfigMap(metadata=Metadata(name="a", namespace=namespace)))
        now = await cluster.patch(ConfigMap, "a", {"data": {"k": "v"}}, namespace)
        stale = Preconditions(made.metadata.uid, made.metadata.resource_version)
        with pytest.raises(OutdatedError, match="ResourceVersion in the precondition"):
            await cluster.delete(ConfigMap, "a", namespace, when=stale)
        await cluster.delete(
            ConfigMap, "a", namespace, when=Preconditions(now.metadata.uid, now.metadata.resource_version)
        )
        with pytest.raises(NotFoundError):
            await cluster.get(ConfigMap, "a", namespace)


@pytest.fixture
def own() -> Iterator[ApiServer]:
    with ApiServer() as cluster:
        yield cluster


async def test_a_server_that_stopped_is_noticed(own: ApiServer) -> None:
    """Calls, Leases and watches of a server that is there and says nothing end within their time, and work when it goes on."""
    patience = Patience(silence=2.0, call=2.0, lease=1.0, quiet=2.0)
    async with opened(auth.from_kubeconfig(own.kubeconfig), patience=patience) as cluster:
        lease = await cluster.create(Lease(metadata=Metadata(name="l", namespace="default")))
        _, since = await list_all(cluster, ConfigMap)

        async def ends(call: Any, within: float) -> None:
            begun = anyio.current_time()
            with pytest.raises(UnavailableError):
                await call()
            assert anyio.current_time() - begun < within

        async def watch() -> None:
            async with aclosing(cluster.watch(ConfigMap, since=since)) as notices:  # type: ignore[type-var]
                async for _ in notices:
                    pass

        own.pause()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ends, lambda: cluster.get(ConfigMap, "x", "default"), 3.0)
                tasks.start_soon(ends, lambda: cluster.get(Lease, "l", "default"), 2.0)
                tasks.start_soon(ends, watch, 5.0)
        finally:
            own.resume()
        assert await cluster.get(Lease, "l", "default") == lease


async def test_an_idle_client_asks_almost_nothing(api: ApiServer) -> None:
    """Watches that nothing happens in cost no request: only their start is in the audit log."""
    metrics = Metrics()
    async with opened(auth.from_kubeconfig(api.kubeconfig_for("idle", ["system:masters"])), metrics=metrics) as cluster:

        async def follow() -> None:
            async with aclosing(cluster.stream(ConfigMap)) as notices:  # type: ignore[type-var]
                async for _ in notices:
                    pass

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(follow)
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
    asked = [
        event
        for event in api.audit()
        if event["user"].get("username") == "idle" and event["stage"] != "RequestReceived"
    ]
    assert len({event["auditID"] for event in asked}) == 5, json.dumps(asked)[:500]
