"""Under load, whatever happens to the API server and to the way there, the cache ends at what the server holds."""

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
import yaml
from aiohttp import web
from yarl import URL

from tests.rig.cluster import ApiServer
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.cache import SharedCache, SharedView
from ugallu.cluster.kubernetes import auth
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.kubernetes.http import Patience
from ugallu.cluster.port import (
    AlreadyExistsError,
    Change,
    Key,
    NotFoundError,
    UnavailableError,
    key_of,
    list_all,
)
from ugallu.metrics import Metrics
from ugallu.testing.contracts.cluster import SlimRule, rule

pytestmark = pytest.mark.real

WRITERS = 8
NAMES = 25
"""Of each writer."""
SETTLED = 60.0
"""Seconds within which a cache must be where its server is."""


class Relay:
    """A way to the API server that can be cut, and that can stop passing anything on while it stays open."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._behind = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass, reader, back)
            tasks.start_soon(self._pass, there, writer)
        self._writers -= {writer, back}

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def hold(self, seconds: float) -> None:
        self._open.clear()
        await anyio.sleep(seconds)
        self._open.set()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


@asynccontextmanager
async def relayed(api: ApiServer) -> AsyncIterator[Relay]:
    relay = Relay(api.port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    yield relay
    server.close()
    relay.cut()
    await anyio.sleep(0.1)


class Writers:
    """Create, change and delete rules, and keep the books of what the server has acknowledged."""

    def __init__(self, cluster: KubernetesCluster) -> None:
        self.writes = 0
        self.acknowledged: dict[str, SigmaRule | None] = {}
        """The state that the last answer told; names whose last write had no answer are left out."""
        self.over = False
        self._cluster = cluster
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(WRITERS):
                tasks.start_soon(self._write, number)

    async def _write(self, number: int) -> None:
        dice = random.Random(number)
        while not self.over:
            name = f"churn-{number}-{dice.randrange(NAMES)}"
            try:
                await self._one(name, dice.choice("ccpppsd"))
            except (AlreadyExistsError, NotFoundError):
                continue
            except UnavailableError:
                # It may have happened, or not.
                self.acknowledged.pop(name, None)
                await anyio.sleep(0.05)
            else:
                self.writes += 1

    async def _one(self, name: str, verb: str) -> None:
        count = next(self._numbers)
        if verb == "c":
            self.acknowledged[name] = await self._cluster.create(rule(name, description=str(count)))
        elif verb == "p":
            changes = {"spec": {"description": str(count)}}
            self.acknowledged[name] = await self._cluster.patch(SigmaRule, name, changes)
        elif verb == "s":
            self.acknowledged[name] = await self._cluster.patch_status(SigmaRule, name, {"matchCount": count})
        else:
            await self._cluster.delete(SigmaRule, name)
            self.acknowledged[name] = None


class Listener:
    """Replays what a view tells, and notes what cannot follow from what it told before."""

    def __init__(self, view: SharedView[SigmaRule]) -> None:
        self.state: dict[Key, SigmaRule] = {}
        self.lies: list[str] = []
        view.listen(self._told)

    def _told(self, change: Change, item: SigmaRule) -> None:
        key = key_of(item)
        if (change is Change.ADDED) == (key in self.state):
            self.lies.append(f"{change} {key}")
        if change is Change.DELETED:
            self.state.pop(key, None)
        else:
            self.state[key] = item


@pytest.fixture(scope="module")
def own() -> Iterator[ApiServer]:
    """Return an API server to be handled roughly."""
    with ApiServer() as api:
        api.serve_kinds()
        yield api


def through(api: ApiServer, relay: Relay, folder: Path) -> Path:
    """Return the admin's kubeconfig by way of the relay."""
    document = yaml.safe_load(api.kubeconfig.read_text())
    document["clusters"][0]["cluster"] |= {"server": f"https://127.0.0.1:{relay.port}", "tls-server-name": "localhost"}
    path = folder / "relayed.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


async def rough(api: ApiServer, relay: Relay) -> None:
    """Everything that happens to API servers and to ways there, one after the other, with load in between."""
    for _ in range(3):
        relay.cut()
        await anyio.sleep(0.7)
    await anyio.to_thread.run_sync(api.etcd.compact)
    relay.cut()
    await anyio.sleep(1)
    await anyio.to_thread.run_sync(api.restart, signal.SIGKILL)
    await anyio.sleep(2)
    # Half open: nothing breaks, nothing comes.
    await relay.hold(6)
    await anyio.sleep(1)
    api.pause()
    await anyio.sleep(5)
    api.resume()
    await anyio.sleep(1)
    api.etcd.pause()
    await anyio.sleep(3)
    api.etcd.resume()
    await anyio.sleep(1)
    # History is gone and the server's own memory of it too: only a new list helps.
    await anyio.to_thread.run_sync(api.etcd.compact)
    await anyio.to_thread.run_sync(api.restart, signal.SIGTERM)
    relay.cut()
    await anyio.sleep(3)


async def test_the_cache_ends_at_what_the_server_holds(own: ApiServer, tmp_path: Path) -> None:
    """Object by object, for two Structs over one watch; no listener was told what could not be; what the server
    acknowledged is there."""
    patience = Patience(silence=4.0, call=5.0, quiet=4.0)
    metrics = Metrics()
    direct = await KubernetesCluster.open(auth.from_kubeconfig(own.kubeconfig), patience=patience)
    async with relayed(own) as relay:
        reader = await KubernetesCluster.open(
            auth.from_kubeconfig(through(own, relay, tmp_path)), patience=patience, metrics=metrics
        )
        cache, writers = SharedCache(reader, metrics=metrics), Writers(direct)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.run)
            view, slim = cache.view(SigmaRule), cache.view(SlimRule)
            await view.synced()
            listener = Listener(view)
            tasks.start_soon(writers.run)
            await rough(own, relay)
            writers.over = True
            await anyio.sleep(0.2)
            with anyio.fail_after(SETTLED):
                held = await _held(direct)
                await view.until(lambda: {key_of(item): item for item in view.items()} == held)
            for key, item in held.items():
                seen = slim.get(key.name)
                assert seen is not None
                assert seen.metadata == item.metadata
            assert len(tuple(slim.items())) == len(held)
            assert listener.state == held
            assert listener.lies == []
            tasks.cancel_scope.cancel()
        await reader.close()
    for name, acknowledged in writers.acknowledged.items():
        assert held.get(Key("", name)) == acknowledged
    await direct.close()
    assert writers.writes > 1000
    assert metrics.value("ugallu_cache_relists_total", kind="SigmaRule", cause="history too short") >= 1
    assert metrics.value("ugallu_cluster_requests_total", verb="watch", outcome="ok") > 5


class Storm:
    """What stands before an API server and lets seven calls in ten come back later; it knows one token at a time."""

    def __init__(self, behind: aiohttp.ClientSession, server: str) -> None:
        self.token = "t0"
        self.raging = False
        self.asked_to_wait = 0
        self.refused = 0
        self._dice = random.Random(7)
        self._behind, self._server = behind, server

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            self.refused += 1
            return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
        if self.raging and self._dice.random() < 0.7:
            self.asked_to_wait += 1
            status = {"kind": "Status", "code": 429, "reason": "TooManyRequests"}
            return web.json_response(status, status=429, headers={"Retry-After": "1"})
        body = await request.read()
        headers = {"Content-Type": request.content_type, "Accept": "application/json"}
        url = URL(self._server + request.raw_path, encoded=True)
        async with self._behind.request(request.method, url, data=body, headers=headers) as response:
            answer = web.StreamResponse(status=response.status, headers={"Content-Type": response.content_type})
            await answer.prepare(request)
            async for chunk in response.content.iter_any():
                await answer.write(chunk)
            return answer


@asynccontextmanager
async def stormy(api: ApiServer) -> AsyncIterator[tuple[Storm, int]]:
    admin = auth.from_kubeconfig(api.kubeconfig)
    context = await admin.tls(await admin.identity())
    assert context is not None
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as behind:
        storm = Storm(behind, api.url)
        served = web.Application(client_max_size=1 << 24)
        served.router.add_route("*", "/{path:.*}", storm.answer)
        runner = web.AppRunner(served, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield storm, runner.addresses[0][1]
        await runner.cleanup()


async def test_storms_and_new_tokens_cost_nothing(own: ApiServer, tmp_path: Path) -> None:
    """Under load, seven calls in ten are told to come back and the token is replaced four times: the cache ends at what the
    server holds, and every write that was acknowledged is there."""
    metrics = Metrics()
    direct = await KubernetesCluster.open(auth.from_kubeconfig(own.kubeconfig))
    async with stormy(own) as (storm, port):
        token = tmp_path / "token"
        token.write_text(storm.token)
        through_it = await KubernetesCluster.open(
            auth.in_cluster(f"http://127.0.0.1:{port}", tmp_path), metrics=metrics
        )
        cache, writers = SharedCache(through_it, metrics=metrics), Writers(through_it)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.run)
            view = cache.view(SigmaRule)
            await view.synced()
            listener = Listener(view)
            tasks.start_soon(writers.run)
            storm.raging = True
            for number in range(1, 5):
                await anyio.sleep(1)
                storm.token = f"t{number}"
                token.write_text(storm.token)
            await anyio.sleep(1)
            storm.raging, writers.over = False, True
            await anyio.sleep(0.2)
            with anyio.fail_after(SETTLED):
                held = await _held(direct)
                await view.until(lambda: {key_of(item): item for item in view.items()} == held)
            tasks.cancel_scope.cancel()
        await through_it.close()
    await direct.close()
    assert (listener.state, listener.lies) == (held, [])
    for name, acknowledged in writers.acknowledged.items():
        assert held.get(Key("", name)) == acknowledged
    assert writers.writes > 20
    assert storm.asked_to_wait > 50
    assert storm.refused >= 4


async def _held(cluster: KubernetesCluster) -> dict[Key, SigmaRule]:
    """Return what the server holds, once writes that were still on their way have come to rest."""
    before: dict[Key, SigmaRule] | None = None
    while True:
        try:
            items, _ = await list_all(cluster, SigmaRule)
        except UnavailableError:
            continue
        found = {key_of(item): item for item in items}
        if found == before:
            return found
        before = found
        await anyio.sleep(0.5)
