"""Ways in which sealing goes wrong, by their number in the list of them, as far as no other test here is about one.

The others: A2-A5 `test_configs.py`, `test_rotation.py`; A7, A8, A20, A23 `evidence/signers`, `evidence/logs`; A9-A14, A19
`test_seal.py`; A16, A17, W1-W8 `evidence/test_s3.py`, `test_retention.py`, `test_keeping.py`; W9 `test_seal.py`.
"""

import base64
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import structlog
import yaml
from structlog.testing import capture_logs

from ugallu.api.bundle import AttestationBundle, SigningMode
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Condition, Metadata
from ugallu.api.platform import (
    AttestorConfig,
    AttestorConfigSpec,
    FulcioConfig,
    QuotaConfig,
    RekorConfig,
    WORMConfig,
    WORMConfigSpec,
)
from ugallu.cluster.port import list_all
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.rekor_v2 import RekorV2
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE
from ugallu.manifests.monitoring import alerts
from ugallu.metrics import CATALOGUE, Metrics
from ugallu.net.ask import Peer, Reply
from ugallu.operator.rights import rights
from ugallu.runtime.attestor.configs import FULCIO_TOKEN, Place, gather, open_all
from ugallu.runtime.attestor.gate import Gate
from ugallu.runtime.attestor.live import Live
from ugallu.runtime.attestor.operator import Attestor
from ugallu.settings import Settings
from ugallu.testing.afar import NAMESPACE, Shape, World, empty_cluster, living
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster, running_cache
from ugallu.testing.contracts.evidence import subject
from ugallu.testing.evidence import make_event
from ugallu.testing.harness import running
from ugallu.testing.rekor_v2 import FakeRekorV2
from ugallu.testing.sigstore import FakeRekor, keyed
from ugallu.testing.trouble import TrueClock

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("burst", [False, True])
async def test_a1_a_key_for_development_is_called_one(tmp_path: Path, burst: bool) -> None:
    """It has to be named to be used, and status says what its signatures are worth, mode and reason."""
    true = TrueClock()
    cluster = await empty_cluster(true)
    world = World(Shape(SigningMode.ED25519_DEV, 1, stamped=False, events=3, burst=burst), tmp_path, true, cluster)
    for number in range(3):
        await cluster.create(make_event(f"se-{number}"))
    async with living(world, random.Random(1)) as life:
        await life.work()
    for number in range(3):
        status = (await cluster.get(AttestationBundle, f"att-se-se-{number}")).status
        assert status.signature is not None
        assert status.signature.mode == "ed25519-dev"
        assert [c.reason for c in status.conditions if c.type == "Signed"] == ["DevMode"]
    await cluster.close()


async def test_a1_a_config_that_cannot_be_followed_seals_nothing(tmp_path: Path) -> None:
    """From the first moment on: no key of our own signs instead, Ready is False with the field, the event waits."""
    cluster = memory_cluster()
    spec = AttestorConfigSpec(
        fulcio=FulcioConfig(issuer="https://issuer.test", fulcio_url="https://fulcio.test"),
        rekor=RekorConfig(url="https://rekor.test", enabled=False),
    )
    await cluster.create(AttestorConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec))
    await cluster.create(make_event("se-1"))
    settings = Settings(state=str(tmp_path), secrets=str(tmp_path / "secrets"))
    async with running(Attestor, cluster=cluster, settings=settings) as run:
        cell = run.process.supervisor.cells[0]
        await run.process.supervisor.until(lambda: "trusted-root.json" in cell.reason)
        config = await cluster.get(AttestorConfig, "default", NAMESPACE)
        (ready,) = (c for c in config.status.conditions if c.type == "Ready")
        assert ready.status == "False"
        assert (await cluster.get(SecurityEvent, "se-1")).status.phase is None
        assert (await list_all(cluster, AttestationBundle))[0] == []
    assert not (tmp_path / "evidence").exists()
    await cluster.close()


class Overheard:
    """A log that remembers what it was sent."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.host = peer.host
        self.sent: list[dict[str, Any]] = []

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        if body:
            self.sent.append(msgspec.json.decode(body))
        return await self._peer.ask(method, path, body, headers)


async def test_a6_logs_get_the_kinds_that_others_read() -> None:
    """`dsse` 0.0.1 with the one key that signed, and a `hashedrekord` over the encoding of the envelope; never `intoto`."""
    signed = keyed(STATEMENT_MEDIA_TYPE, subject(1))
    assert signed.key is not None
    one, two = FakeRekor(ManualClock()), FakeRekorV2()
    first, second = Overheard(one), Overheard(two)
    entry = await RekorV1(first, one.log, Witness(one.log), one.clock).add(signed)
    assert (entry.kind, entry.version) == ("dsse", "0.0.1")
    (proposal,) = first.sent
    assert (proposal["kind"], proposal["apiVersion"]) == ("dsse", "0.0.1")
    (verifier,) = proposal["spec"]["proposedContent"]["verifiers"]
    assert base64.b64decode(verifier).startswith(b"-----BEGIN PUBLIC KEY-----")
    entry = await RekorV2(second, second, two.log, Witness(two.log)).add(signed)
    assert (entry.kind, entry.version) == ("hashedrekord", "0.0.2")
    assert list(second.sent[0]) == ["hashedRekordRequestV002"]
    public = second.sent[0]["hashedRekordRequestV002"]["signature"]["verifier"]["publicKey"]["rawBytes"]
    assert base64.b64decode(public) == signed.key.spki


async def test_a15_what_is_not_followed_is_said(tmp_path: Path) -> None:
    """No S3 service says how full it is: a quota that is asked for is named as what nobody follows."""
    world = World(
        Shape(SigningMode.OPENBAO_TRANSIT, 1, stamped=False, events=0, burst=False),
        tmp_path, TrueClock(), memory_cluster(),
    )  # fmt: skip
    wanted = world.wanted
    spec = WORMConfigSpec(endpoint="https://s3.test", bucket="evidence", quotas=QuotaConfig(soft_quota_percent=70))
    await world.behind.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec))
    place = Place(
        secrets=tmp_path / "secrets",
        account=tmp_path / "account",
        state=tmp_path / "state",
        clock=ManualClock(),
        metrics=Metrics(),
        connect=world.connect,
    )
    files = gather(wanted, place.secrets)

    async def say(found: WORMConfig, ready: Condition) -> None:
        pytest.fail(f"{found.metadata.name} is called as it should be, and hears {ready}")

    with capture_logs() as logs:
        async with running_cache(world.behind) as cache, anyio.create_task_group() as tasks:
            view = cache.view(WORMConfig, namespace=NAMESPACE)
            live = Live(
                wanted, files, open_all(wanted, files, place), place,
                worm=view, say=say, open_store=lambda _: world.store, log=structlog.get_logger(),
            )  # fmt: skip
            tasks.start_soon(live.run)
            await live.store()
            tasks.cancel_scope.cancel()
    assert [line["field"] for line in logs if line["log_level"] == "warning"] == ["spec.quotas"]


def workload() -> list[dict[str, Any]]:
    with (ROOT / "manifests/components/attestor/workload.yaml").open() as file:
        return [document for document in yaml.safe_load_all(file) if document]


def pod() -> dict[str, Any]:
    (deployment,) = (one for one in workload() if one["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def test_a18_somebody_sees_and_hears_it() -> None:
    """Every number that was promised has its metric, the Pod its probes, and what must wake somebody its alert."""
    promised = ["bundles_total", "stage_duration_seconds", "stage_failures_total", "pending_bundles", "oldest_pending_seconds", "cert_not_after_timestamp_seconds", "key_info", "rekor_requests_total", "tsa_requests_total"]  # fmt: skip
    wanted = {*(f"ugallu_attestor_{name}" for name in promised), "ugallu_worm_put_total", "ugallu_worm_bytes_total"}
    assert wanted <= CATALOGUE.keys()
    (container,) = pod()["containers"]
    assert {"livenessProbe", "readinessProbe"} <= container.keys()
    assert "metrics" in {port["name"] for port in container["ports"]}
    told = {alert.name for group in alerts.GROUPS for alert in group.alerts}
    assert {"UgalluAttestorSealFailing", "UgalluAttestorPendingOld", "UgalluWormPutFailing"} <= told


async def test_a19_so_many_at_once_and_no_more() -> None:
    """A back end is asked by several at a time, which is what makes it fast, and never by all."""
    gate, busy, most = Gate("log", 4, ManualClock(), Metrics()), 0, 0

    async def work() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        busy -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(gate.call, work)
    assert (most, busy) == (4, 0)


def test_a21_no_secret_is_asked_for() -> None:
    """What it needs is mounted by name: it may read no Secret through the API server, and no config of another namespace."""
    granted = {resource: grant for grant in rights(Attestor()) for resource in grant.resources}
    assert not {"secrets", "*"} & granted.keys()
    assert granted["wormconfigs"].namespace == NAMESPACE
    with (ROOT / "manifests/components/attestor/rbac.yaml").open() as file:
        written = [rule for one in yaml.safe_load_all(file) if one for rule in one.get("rules", ())]
    assert written
    assert not any({"secrets", "*"} & set(rule["resources"]) for rule in written)
    mounted = {volume["secret"]["secretName"] for volume in pod()["volumes"] if "secret" in volume}
    assert mounted == {
        "ugallu-trusted-root", "ugallu-fulcio-ca", "ugallu-openbao-ca", "ugallu-rekor-ca", "ugallu-timestamp-ca",
        "ugallu-worm-credentials",
    }  # fmt: skip


def test_a22_a_token_for_the_authority_is_projected() -> None:
    """Keyless signing works out of the box: a token with its audience lies where the signer reads it."""
    (volume,) = (
        source["serviceAccountToken"]
        for volume in pod()["volumes"]
        if volume["name"] == "token-fulcio"
        for source in volume["projected"]["sources"]
    )
    assert volume["audience"] == "sigstore"
    assert volume["expirationSeconds"] >= 600
    (container,) = pod()["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "token-fulcio")
    assert f"{mount['mountPath']}/{volume['path']}" == FULCIO_TOKEN
    assert mount["readOnly"]
