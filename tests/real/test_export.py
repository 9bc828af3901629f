"""What real services sealed, taken away as a folder: stock verifiers accept each piece of it, without any network."""

import contextlib
import datetime as dt
import io
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import to_thread

from tests.real.test_sealing import NAMESPACE, attested, attestor_config, mounted
from tests.rig.evidence.stack import Sigstore
from tests.rig.evidence.verifiers import sigstore_python
from tests.rig.s3 import S3Server
from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import EvidenceRef
from ugallu.api.k8s import LocalObjectReference
from ugallu.api.meta import Metadata
from ugallu.api.platform import EncryptionConfig, EncryptionMode, WORMConfig, WORMConfigSpec
from ugallu.api.response import EventResponse
from ugallu.cli.main import main
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.evidence.stores.s3 import from_folder, open_store
from ugallu.runtime.attestor.operator import Attestor
from ugallu.testing.evidence import make_event
from ugallu.testing.exporting import response
from ugallu.testing.harness import running

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]
EVENTS = 24
"""More than are sealed alone at once: the rest shares a statement."""


async def sealed(sigstore: Sigstore, s3: S3Server, folder: Path) -> EvidenceRef:
    """Seal events and a response, keyless, into a locked bucket; returns a capture that both name, which lies there too."""
    settings = mounted(folder, sigstore)
    worm = WORMConfigSpec(
        endpoint=s3.endpoint,
        bucket=s3.name(),
        credentials_secret_ref=LocalObjectReference(name="ugallu-worm-credentials"),
        encryption=EncryptionConfig(mode=EncryptionMode.NONE),
    )
    clock = SystemClock()
    store = open_store(worm, from_folder(folder / "secrets" / "ugallu-worm-credentials"), clock)
    await store._client._call("create_bucket", "", Bucket=worm.bucket, ObjectLockEnabledForBucket=True)
    until = clock.now() + dt.timedelta(days=1)
    put = await store.put("forensics/web.tar.gz", b"a capture", media_type="application/x-tar+gzip", until=until)
    await store.aclose()
    capture = EvidenceRef(media_type=put.media_type, url=put.url, sha256=put.sha256, size=put.size)
    cluster = EmbeddedCluster.open(folder / "state")
    await cluster.create(attestor_config(sigstore, folder, 2))
    await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=worm))
    first = make_event(f"se-{0:024x}")
    first = await cluster.create(
        msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, evidence=(capture,)))
    )
    done = response("er-1", first, evidence=[capture])
    await cluster.create(done)
    await cluster.patch_status(EventResponse, "er-1", msgspec.to_builtins(done.status))
    async with running(Attestor, cluster=cluster, settings=settings):
        await attested(cluster)
        for number in range(1, EVENTS):
            await cluster.create(make_event(f"se-{number:024x}"))
        await attested(cluster)
        await all_sealed(cluster)
    await cluster.close()
    return capture


async def all_sealed(cluster: EmbeddedCluster) -> None:
    """Wait until every bundle says that it is sealed."""
    with anyio.fail_after(60):
        while True:
            bundles, _ = await list_all(cluster, AttestationBundle)
            if {bundle.status.phase for bundle in bundles} == {BundlePhase.SEALED}:
                return
            await anyio.sleep(0.1)  # real services, polled with a bound


async def ugallu(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a thread: it runs a loop of its own."""
    told, said = io.StringIO(), io.StringIO()

    def run() -> int:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            return main([str(word) for word in words])

    return subprocess.CompletedProcess(words, await to_thread.run_sync(run), told.getvalue(), said.getvalue())


async def test_an_exported_incident_verifies_piece_by_piece_with_stock_tools(
    sigstore: Sigstore, s3: S3Server, cosign: Cosign, tmp_path: Path
) -> None:
    """Events sealed alone and together, a response and the capture it left: one folder, one command; cosign accepts each
    bundle with the command that the folder names, and refuses it with another event's bytes; sigstore-python agrees.
    """
    capture = await sealed(sigstore, s3, tmp_path)
    folder = tmp_path / "incident"
    place = ("--state", tmp_path / "state", "--secrets", tmp_path / "secrets")
    made = await ugallu("export", folder, "--correlation", "c0ffee", *place)
    assert made.returncode == 0, made.stderr
    root = tmp_path / "secrets" / "ugallu-trusted-root" / "trusted-root.json"
    who = ("--identity", sigstore.issuer.identity, "--issuer", sigstore.issuer.url, "--trusted-root", root)
    told = json.loads((await ugallu("verify", folder, *who, "--json")).stdout)
    assert told["ok"], told["findings"]
    assert (len(told["facts"]), told["blobs"], told["findings"]) == (EVENTS + 1, 1, [])
    assert (folder / "blobs" / f"{capture.sha256.removeprefix('sha256:')}.tar.gz").read_bytes() == b"a capture"
    lines = [shlex.split(line) for line in (folder / "COMMANDS.txt").read_text().splitlines()[1:]]
    assert len(lines) == EVENTS + 1
    alone = next(words for words in lines if words[3].startswith("events/"))
    shared = [words for words in lines if words[3].startswith("shared/")]
    assert len(shared) > 1
    answered = next(words for words in lines if words[3].startswith("responses/"))
    for words in (alone, shared[0], shared[-1], answered):
        done = cosign(folder, *words[1:])
        assert done.returncode == 0, (words, done.stderr)
    assert cosign(folder, *alone[1:-1], answered[-1]).returncode != 0
    with sigstore_python() as python:
        question = {"root": str(folder / "trusted-root.json"), "identity": who[1], "issuer": who[3]}
        for words in (alone, shared[0]):
            assert not python.refuses(bundle=str(folder / words[3]), **question)
    bundle = folder / alone[3]
    bundle.write_bytes(bundle.read_bytes().replace(b'"logIndex"', b'"logindex"', 1))
    bad = await ugallu("verify", folder, *who)
    assert bad.returncode == 1
    assert f"CHANGED    {alone[3]}" in bad.stdout
