"""The store that ttl shares with the attestor, and evidence that it verifies without being the attestor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import structlog

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import ClusterIdentity
from ugallu.api.meta import Metadata
from ugallu.api.platform import RetentionConfig, WORMConfig, WORMConfigSpec
from ugallu.clock import SystemClock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cluster, list_all
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import roll
from ugallu.evidence.ports import IntegrityError, PublicKey
from ugallu.evidence.stores.retention import Class
from ugallu.evidence.x509 import Identity
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.publish import SIGNERS, Publisher
from ugallu.runtime.ttl.vault import Bucket, Vault, vault
from ugallu.settings import Settings
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster, running_cache
from ugallu.testing.evidence import make_event
from ugallu.testing.harness import running
from ugallu.testing.lifecycle import Heard, MemoryStore

SPACE = "ugallu-system"
KEY, OTHER = PublicKey(b"spki", "one"), PublicKey(b"other", "two")
NAME = Identity("https://kubernetes.io/ns/sa", "https://issuer")


@asynccontextmanager
async def opened(folder: Path, cluster: Cluster, *, evidence: str = "local") -> AsyncIterator[Vault]:
    """The vault of a process with this state."""
    async with running_cache(cluster) as cache:
        found = vault(platform(folder, cluster, cache, evidence))
        try:
            yield found
        finally:
            found.close()


def platform(folder: Path, cluster: Cluster, cache: SharedCache, evidence: str = "local") -> Platform:
    return Platform(
        identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
        cluster=cluster,
        cache=cache,
        emitter=Heard(),
        clock=SystemClock(),
        log=structlog.get_logger(),
        metrics=Metrics(),
        settings=Settings(state=str(folder), evidence="local" if evidence else "", secrets=str(folder / "secrets")),
        namespace=SPACE,
        state=folder,
    )


async def test_what_the_attestor_of_this_state_sealed_is_proven(tmp_path: Path) -> None:
    """With what it publishes beside its evidence; a flipped byte in the archive is an error, and so is another event."""
    cluster = memory_cluster()
    for number in range(2):
        await cluster.create(make_event(f"se-{number:024x}"))
    async with running(Attestor, cluster=cluster, settings=Settings(state=str(tmp_path))) as run:
        await run.settle()
    one, two = (await list_all(cluster, AttestationBundle))[0]
    async with opened(tmp_path, cluster) as found:
        assert found.missing == ""
        await found.confirm(one)
        await found.confirm(two)
        forged = msgspec.structs.replace(one, status=two.status)
        with pytest.raises(IntegrityError, match="another event"):
            await found.confirm(forged)
        assert one.status.worm_ref is not None
        flip(Path(one.status.worm_ref.url.removeprefix("file://")))
        with pytest.raises(IntegrityError):
            await found.confirm(one)


def flip(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def test_t2_without_a_config_there_is_no_store(tmp_path: Path) -> None:
    """On Kubernetes neither a directory nor anything else is taken instead; what is missing is said."""

    class Server:
        embedded = False

        def __init__(self, cluster: Any) -> None:
            self._cluster = cluster

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cluster, name)

    async with opened(tmp_path, Server(memory_cluster()), evidence="") as found:
        assert "nothing is deleted" in found.missing
        with pytest.raises(TransientError, match="WORMConfig/default"):
            await found.store.get("x")
        assert not (tmp_path / "evidence").exists()


class Closing(MemoryStore):
    """A store with connections."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_t2_the_store_is_the_one_of_wormconfig(tmp_path: Path) -> None:
    """The attestor's config decides, retention included; it is followed, and one that cannot be changes nothing."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    made: dict[str, Closing] = {}

    def open_store(spec: WORMConfigSpec) -> Any:
        if not spec.bucket:
            raise PermanentError("no bucket is named")
        return made.setdefault(spec.bucket, Closing(clock))

    def config(bucket: str) -> WORMConfig:
        spec = WORMConfigSpec(endpoint="http://s3", bucket=bucket, retention=RetentionConfig(bundle="2160h"))
        return WORMConfig(metadata=Metadata(name="default", namespace=SPACE), spec=spec)

    async with running_cache(cluster) as cache, anyio.create_task_group() as tasks:
        leading = Bucket(cache.view(WORMConfig, namespace=SPACE), open_store, structlog.get_logger(), None)
        tasks.start_soon(leading.run)
        await settled()
        assert leading.missing
        for bucket in ("one", "", "two"):
            await cluster.apply(config(bucket), manager="x")
            await settled()
            assert leading.store_now is made[bucket or "one"]
        assert leading.missing == ""
        assert made["one"].closed
        assert leading.retention.spans[Class.BUNDLE].days == 90
        tasks.cancel_scope.cancel()
    assert made["two"].closed


async def test_signers_are_published_and_only_grow() -> None:
    """A process that begins anew without a memory adds to what the store names, and takes nothing away."""
    clock = ManualClock()
    store = MemoryStore(clock)
    log = structlog.get_logger()
    await Publisher(store, lambda: (KEY, NAME), clock=clock, log=log).turn()
    again = Publisher(store, lambda: (OTHER,), clock=clock, log=log)
    await again.turn()
    assert set(roll.read(await store.get(SIGNERS), where="x")) == {KEY, NAME, OTHER}
    store.blobs.clear()
    await again.turn()
    assert set(roll.read(await store.get(SIGNERS), where="x")) == {OTHER}
    with pytest.raises(IntegrityError):
        roll.read(b"{torn", where="x")
