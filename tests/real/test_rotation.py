"""Keys that are exchanged while events are sealed: what each of them signed verifies with stock cosign, offline.

The transit engine is a fake that answers as a real server did; log, timestamps and bucket are real.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rig.evidence.stack import Sigstore
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from ugallu.api.bundle import AttestationBundle, SigningMode
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.k8s import LocalObjectReference
from ugallu.api.meta import Metadata
from ugallu.api.platform import (
    AttestorConfig,
    AttestorConfigSpec,
    EncryptionConfig,
    EncryptionMode,
    FulcioConfig,
    OpenBaoConfig,
    OpenBaoKeyType,
    RekorConfig,
    TimestampAuthorityConfig,
    WORMConfig,
    WORMConfigSpec,
)
from ugallu.cli.evidence import Archive
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.evidence import bundle, kit, roll, statement
from ugallu.evidence.keys import to_pem
from ugallu.evidence.ports import PublicKey
from ugallu.evidence.stores.s3 import S3Store, from_folder, open_store
from ugallu.net.client import HttpClient
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.publish import SIGNERS
from ugallu.runtime.attestor.rotate import NEXT
from ugallu.settings import KubernetesSettings, Settings
from ugallu.testing.evidence import make_event
from ugallu.testing.harness import running
from ugallu.testing.openbao import FakeOpenBao

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]
NAMESPACE = "ugallu-system"
EACH = 4


async def test_every_version_of_a_transit_key_verifies(
    sigstore: Sigstore, s3: S3Server, cosign: Cosign, tmp_path: Path
) -> None:
    """Rotated twice while events are sealed: the list of signers in the bucket has every key, and cosign accepts each."""
    worm = WORMConfigSpec(
        endpoint=s3.endpoint,
        bucket=s3.name(),
        credentials_secret_ref=LocalObjectReference(name="ugallu-worm-credentials"),
        encryption=EncryptionConfig(mode=EncryptionMode.NONE),
    )
    bao = FakeOpenBao(SystemClock())
    bao.accepted = sigstore.issuer.token()
    mounted = {
        "secrets/ugallu-trusted-root/trusted-root.json": sigstore.trusted_root,
        "secrets/ugallu-worm-credentials/access-key": ACCESS_KEY.encode(),
        "secrets/ugallu-worm-credentials/secret-key": SECRET_KEY.encode(),
        "account/token": bao.accepted.encode(),
    }
    write(tmp_path, mounted)
    store = open_store(worm, from_folder(tmp_path / "secrets" / "ugallu-worm-credentials"), SystemClock())
    await store._client._call("create_bucket", "", Bucket=worm.bucket, ObjectLockEnabledForBucket=True)
    cluster = EmbeddedCluster.in_memory(clock=SystemClock())
    await cluster.create(config(sigstore))
    await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=worm))
    settings = Settings(
        state=str(tmp_path / "state"),
        secrets=str(tmp_path / "secrets"),
        kubernetes=KubernetesSettings(account=str(tmp_path / "account")),
    )

    def connect(url: str, **about: Any) -> Any:
        return Bao(bao) if "openbao" in url else HttpClient(url, **about)

    with (
        mock.patch("ugallu.net.client.HttpClient", connect),
        mock.patch("ugallu.evidence.signers.openbao.FRESH", 0.0),
        mock.patch("ugallu.runtime.attestor.publish.EVERY", 0.2),
    ):
        async with running(Attestor, cluster=cluster, settings=settings) as run:
            await run.process.supervisor.until(lambda: not run.process.supervisor.cells[0].reason)
            for turn in range(3):
                for number in range(EACH):
                    await cluster.create(make_event(f"se-{turn}-{number}"))
                await until_attested(cluster, EACH * turn + 1)  # while the others are under way
                bao.rotate()
            await until_attested(cluster, EACH * 3)
            named = await signers(store)
    bundles, _ = await list_all(cluster, AttestationBundle)
    statements = {one.status.statement_digest for one in bundles}
    assert (len(bundles), bao.signed) == (EACH * 3, len(statements))
    used: set[PublicKey] = set()
    for one in bundles:
        used.add(await accepted(one, store, named, cosign, sigstore, tmp_path / one.metadata.name))
    assert len(used) >= 2
    await store.aclose()
    await cluster.close()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class Bao:
    """A connection to the fake."""

    def __init__(self, bao: FakeOpenBao) -> None:
        self.host = bao.host
        self.ask = bao.ask

    async def aclose(self) -> None:
        """There is nothing to close."""


def config(sigstore: Sigstore) -> AttestorConfig:
    spec = AttestorConfigSpec(
        signing_mode=SigningMode.OPENBAO_TRANSIT,
        fulcio=FulcioConfig(issuer=sigstore.issuer.url, fulcio_url=sigstore.fulcio),
        openbao=OpenBaoConfig(
            address="https://openbao.test", key_name="ugallu", auth_role="attestor", key_type=OpenBaoKeyType.ECDSA_P256
        ),
        rekor=RekorConfig(url=sigstore.rekor1),
        timestamp_authority=TimestampAuthorityConfig(url=sigstore.timestamps),
    )
    return AttestorConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec)


async def until_attested(cluster: EmbeddedCluster, count: int) -> None:
    with anyio.fail_after(60):
        while True:
            events, _ = await list_all(cluster, SecurityEvent)
            if sum(event.status.phase is EventPhase.ATTESTED for event in events) >= count:
                return
            await anyio.sleep(0.02)  # real services, polled with a bound


async def signers(store: S3Store) -> list[PublicKey]:
    """Return the keys that the store names, once all are written."""
    with anyio.fail_after(40):
        while True:
            found = roll.read(await store.get(SIGNERS), where=SIGNERS)
            keys = [one for one in found if isinstance(one, PublicKey)]
            if len(keys) >= 3:
                return keys
            await anyio.sleep(0.2)  # a real clock


async def accepted(
    one: AttestationBundle, store: S3Store, named: list[PublicKey], cosign: Cosign, sigstore: Sigstore, folder: Path
) -> PublicKey:
    """Have cosign judge a bundle under the key that it names, of those that are published; returns the key."""
    assert one.status.worm_ref is not None
    assert one.status.subject_ref is not None
    content = await store.get(store.key(one.status.worm_ref.url))
    (key,) = (key for key in named if key.hint == bundle.read(content).hint)
    files = {
        "x.sigstore.json": content,
        "x.spec.json": await store.get(store.key(one.status.subject_ref.url)),
        "root.json": sigstore.trusted_root,
        "x.pub": to_pem(key),
    }
    write(folder, files)
    done = cosign(
        folder,
        "verify-blob-attestation",
        *("--bundle", "x.sigstore.json", "--key", "x.pub", "--trusted-root", "root.json"),
        *("--type", statement.EVENT_PREDICATE, "x.spec.json"),
    )
    assert done.returncode == 0, done.stderr
    return key


async def test_each_key_of_a_directory_verifies(cosign: Cosign, tmp_path: Path) -> None:
    """One key, then the next put beside it: exported kits bring the key of their time, and cosign accepts both."""
    cluster = EmbeddedCluster.in_memory(clock=SystemClock())
    settings = Settings(state=str(tmp_path / "state"))
    evidence = tmp_path / "state" / "evidence"
    for number in range(2):
        await cluster.create(make_event(f"se-{number}"))
        async with running(Attestor, cluster=cluster, settings=settings) as run:
            await run.settle()
        path = evidence / NEXT
        path.touch(mode=0o600)
        path.write_bytes(new_key())
    archive, used = Archive(tmp_path / "state"), set()
    for number in range(2):
        event = await cluster.get(SecurityEvent, f"se-{number}")
        made = await archive.kit(event, await cluster.get(AttestationBundle, f"att-se-se-{number}"))
        kit.export(made, tmp_path / event.metadata.name)
        done = cosign(tmp_path / event.metadata.name, *kit.cosign_line(made.name).split()[1:])
        assert done.returncode == 0, done.stderr
        used.add(made.key)
    assert len(used) == 2
    await cluster.close()


def new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
