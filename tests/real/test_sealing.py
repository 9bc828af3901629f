"""An AttestorConfig and a WORMConfig, real services behind them: what is in the bucket verifies with stock cosign."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest
import structlog

from tests.rig.evidence.stack import Sigstore
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from ugallu.api.bundle import AttestationBundle, AttestationBundleStatus, BundlePhase
from ugallu.api.event import ClusterIdentity, EventPhase, SecurityEvent
from ugallu.api.k8s import LocalObjectReference
from ugallu.api.meta import Metadata
from ugallu.api.platform import (
    AttestorConfig,
    AttestorConfigSpec,
    EncryptionConfig,
    EncryptionMode,
    FulcioConfig,
    RekorConfig,
    TimestampAuthorityConfig,
    WORMConfig,
    WORMConfigSpec,
)
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.errors import RefusedError
from ugallu.evidence import statement
from ugallu.evidence.ports import Lock
from ugallu.evidence.stores.s3 import S3Store, from_folder, open_store
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.ttl.archive import Archive
from ugallu.runtime.ttl.marks import whole
from ugallu.runtime.ttl.vault import vault
from ugallu.settings import Settings
from ugallu.testing.clock import settled
from ugallu.testing.cluster import running_cache
from ugallu.testing.evidence import make_event
from ugallu.testing.harness import running
from ugallu.testing.lifecycle import Heard

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]
NAMESPACE = "ugallu-system"


@pytest.mark.parametrize("generation", [1, 2])
async def test_events_are_sealed_keyless_into_a_locked_bucket(
    sigstore: Sigstore, s3: S3Server, cosign: Cosign, tmp_path: Path, generation: int
) -> None:
    """Events become Attested; each bundle lies locked in the bucket, under our account's name, and cosign accepts it."""
    settings = mounted(tmp_path, sigstore)
    worm = WORMConfigSpec(
        endpoint=s3.endpoint,
        bucket=s3.name(),
        credentials_secret_ref=LocalObjectReference(name="ugallu-worm-credentials"),
        encryption=EncryptionConfig(mode=EncryptionMode.NONE),
    )
    store = open_store(worm, from_folder(tmp_path / "secrets" / "ugallu-worm-credentials"), SystemClock())
    await store._client._call("create_bucket", "", Bucket=worm.bucket, ObjectLockEnabledForBucket=True)
    await store.prove()
    cluster = EmbeddedCluster.in_memory(clock=SystemClock())
    await cluster.create(attestor_config(sigstore, tmp_path, generation))
    await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=worm))
    for number in range(5):
        await cluster.create(make_event(f"se-{number:024x}"))
    async with running(Attestor, cluster=cluster, settings=settings) as run:
        await run.process.supervisor.until(lambda: not run.process.supervisor.cells[0].reason)
        await attested(cluster)
    bundles, _ = await list_all(cluster, AttestationBundle)
    assert len(bundles) == 5
    for bundle in bundles[:2]:
        await verified(bundle.status, store, cosign, sigstore, tmp_path / bundle.metadata.name)
    await proven_by_another(cluster, settings, bundles, tmp_path / "other")
    await store.aclose()
    await cluster.close()


async def proven_by_another(
    cluster: EmbeddedCluster, settings: Settings, bundles: Sequence[AttestationBundle], folder: Path
) -> None:
    """What ttl does in a Pod of its own: it verifies with the mounted root, copies into the bucket, and holds."""
    async with running_cache(cluster) as cache, anyio.create_task_group() as tasks:
        platform = Platform(
            identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            cluster=cluster,
            cache=cache,
            emitter=Heard(),
            clock=SystemClock(),
            log=structlog.get_logger(),
            metrics=Metrics(),
            settings=settings,
            namespace=NAMESPACE,
            state=folder,
        )
        found = vault(platform)
        for service in found.services:
            tasks.start_soon(service.run)
        configs = cache.view(WORMConfig, namespace=NAMESPACE)
        await configs.synced()
        await settled()
        for bundle in bundles:
            await found.confirm(bundle)
        item = await cluster.get(whole(SecurityEvent.kind_info), bundles[0].spec.attested_for.name)
        archive = Archive(found.store, found.until, platform.clock)
        key = await archive.save(item, "test")
        await archive.hold([key], on=True)
        stored = await found.store.stat(key)
        assert stored is not None
        assert (stored.held, stored.lock) == (True, Lock.STORE)
        with pytest.raises(RefusedError):
            await found.store.drop(key)
        await archive.hold([key], on=False)
        found.close()
        tasks.cancel_scope.cancel()


def mounted(folder: Path, sigstore: Sigstore) -> Settings:
    """Return settings whose Secrets are mounted: the trusted root, and the keys of the bucket."""
    (folder / "token").write_text(sigstore.issuer.token())
    files = {
        "ugallu-trusted-root/trusted-root.json": sigstore.trusted_root,
        "ugallu-worm-credentials/access-key": ACCESS_KEY.encode(),
        "ugallu-worm-credentials/secret-key": SECRET_KEY.encode(),
    }
    for name, content in files.items():
        (folder / "secrets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "secrets" / name).write_bytes(content)
    return Settings(state=str(folder / "state"), secrets=str(folder / "secrets"))


def attestor_config(sigstore: Sigstore, folder: Path, generation: int) -> AttestorConfig:
    """Return a config of keyless signing with a log of this generation."""
    log = {
        1: RekorConfig(url=sigstore.rekor1),
        2: RekorConfig(url=sigstore.rekor2, api_version=2, read_url=sigstore.rekor2_tiles),
    }[generation]
    token = str(folder / "token")
    spec = AttestorConfigSpec(
        fulcio=FulcioConfig(issuer=sigstore.issuer.url, fulcio_url=sigstore.fulcio, oidc_token_path=token),
        rekor=log,
        timestamp_authority=TimestampAuthorityConfig(url=sigstore.timestamps),
    )
    return AttestorConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec)


async def attested(cluster: EmbeddedCluster) -> None:
    """Wait until every event says that it is attested."""
    with anyio.fail_after(60):
        while True:
            events, _ = await list_all(cluster, SecurityEvent)
            if {event.status.phase for event in events} == {EventPhase.ATTESTED}:
                return
            await anyio.sleep(0.1)  # real services, polled with a bound


async def verified(
    status: AttestationBundleStatus, store: S3Store, cosign: Cosign, sigstore: Sigstore, folder: Path
) -> None:
    """Read back what the status names, and have cosign judge it under our account's name."""
    assert status.phase is BundlePhase.SEALED
    assert status.worm_ref is not None
    assert status.subject_ref is not None
    assert status.signature is not None
    assert status.signature.mode == "fulcio-keyless"
    assert status.signature.key_id.startswith(f"fulcio:{sigstore.issuer.identity}:")
    stored = await store.stat(store.key(status.worm_ref.url))
    assert stored is not None
    assert stored.lock is Lock.STORE
    files = {
        "x.sigstore.json": await store.get(store.key(status.worm_ref.url)),
        "x.spec.json": await store.get(store.key(status.subject_ref.url)),
        "root.json": sigstore.trusted_root,
    }
    write(folder, files)
    done = cosign(
        folder,
        "verify-blob-attestation",
        *("--bundle", "x.sigstore.json", "--trusted-root", "root.json", "--type", statement.EVENT_PREDICATE),
        *("--certificate-identity", sigstore.issuer.identity, "--certificate-oidc-issuer", sigstore.issuer.url),
        "x.spec.json",
    )
    assert done.returncode == 0, done.stderr


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
