"""`ugallu export` of what the cluster has no more, and from stores that lie elsewhere."""

import contextlib
import datetime as dt
import io
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.lowlevel
import msgspec
import pytest
import structlog
from anyio import to_thread

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.k8s import LocalObjectReference
from ugallu.api.meta import Metadata, ObjectReference, Resource
from ugallu.api.platform import EncryptionConfig, EncryptionMode, WORMConfig, WORMConfigSpec
from ugallu.api.response import EventResponse
from ugallu.cli.export_from import Stores, holdings
from ugallu.cli.export_what import Link, choose
from ugallu.cli.main import main
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import NotFoundError
from ugallu.errors import PermanentError
from ugallu.evidence import keys, roll, trusted_root
from ugallu.evidence.canonical import digest
from ugallu.evidence.copies import Entry
from ugallu.evidence.export import TooLargeError
from ugallu.evidence.folder import Asked
from ugallu.evidence.ports import EvidenceStore
from ugallu.runtime.attestor.choose import bucket
from ugallu.runtime.attestor.publish import SIGNERS
from ugallu.runtime.ttl.archive import Archive
from ugallu.runtime.ttl.chain import Chain
from ugallu.runtime.ttl.marks import whole
from ugallu.runtime.ttl.snapshot import snapshot
from ugallu.settings import Settings
from ugallu.testing.clock import ManualClock
from ugallu.testing.evidence import NOON, make_event
from ugallu.testing.exporting import event, response
from ugallu.testing.s3 import ACCESS, SECRET, FakeS3
from ugallu.testing.sealing import Desk, desk
from ugallu.testing.sigstore import WHO, FakeSigstore, new_key, spki_of

NAMES = [f"se-{number:024x}" for number in range(3)]


async def ugallu(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a thread: it runs a loop of its own."""
    told, said = io.StringIO(), io.StringIO()

    def run() -> int:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            return main([str(word) for word in words])

    return subprocess.CompletedProcess(words, await to_thread.run_sync(run), told.getvalue(), said.getvalue())


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A state directory with three sealed events and a sealed response to the first."""
    folder = tmp_path / "state"
    folder.mkdir()
    clock = ManualClock()
    cluster = EmbeddedCluster.open(folder, clock=clock)
    created = [await cluster.create(make_event(name)) for name in NAMES]
    done = response("er-1", created[0])
    made = await cluster.create(done)
    await cluster.patch_status(EventResponse, "er-1", msgspec.to_builtins(done.status))
    async with desk(folder, cluster, clock) as at:
        responses = at.parts.reconcilers[2]
        for name in NAMES:
            await at.enqueue.reconcile(await at.seen_event(name))
            await at.reseal.alone(await at.seen_bundle(f"att-se-{name}"))
        await responses.reconcile(await cluster.get(responses.watches, made.metadata.name))
        await at.reseal.alone(await at.seen_bundle("att-er-er-1"))
    await cluster.close()
    return folder


@contextlib.asynccontextmanager
async def collecting(folder: Path) -> AsyncIterator[tuple[EmbeddedCluster, "Collector"]]:
    """What ttl does in a process of its own."""
    clock = ManualClock()
    cluster = EmbeddedCluster.open(folder, clock=clock)
    async with desk(folder, cluster, clock) as at:
        yield cluster, Collector(cluster, at.reseal.stages.store, at)
    await cluster.close()


class Collector:
    """Copies objects, lists the copies, and deletes."""

    def __init__(self, cluster: EmbeddedCluster, store: EvidenceStore, at: Desk) -> None:
        self._cluster = cluster
        self._archive = Archive(store, lambda now: now.replace(year=now.year + 1), at.clock)
        self.chain = Chain(
            store,
            "test",
            at.clock,
            structlog.get_logger(),
            tell=lambda *_: anyio.lowlevel.checkpoint(),
            until=lambda now: now.replace(year=now.year + 1),
        )

    async def collect(self, *items: tuple[type[Resource], str], listed: bool = True) -> None:
        for kind, name in items:
            item = await self._cluster.get(whole(kind.kind_info), name)
            key = await self._archive.save(item, "test")
            if listed:
                self.chain.lists(Entry(key, digest(snapshot(item)), kind.kind_info.name, name, item.metadata.uid))
                await self.chain.turn()
            await self._cluster.delete(kind, name)


async def facts(folder: Path) -> dict[str, bool]:
    """Return what a folder holds, and whether it is proven."""
    told = json.loads((await ugallu("verify", folder, "--json")).stdout)
    assert told["ok"], told["findings"]
    return {fact["name"]: fact["ok"] for fact in told["facts"]}


async def test_what_was_collected_is_exported_from_the_archive(state: Path, tmp_path: Path) -> None:
    """An event, its response and their bundles, all gone from the cluster: the archive has them, and they are proven."""
    async with collecting(state) as (_, collector):
        await collector.collect(
            (EventResponse, "er-1"),
            (SecurityEvent, NAMES[0]),
            (AttestationBundle, f"att-se-{NAMES[0]}"),
            (AttestationBundle, "att-er-er-1"),
        )
    gone = await ugallu("export", NAMES[0], tmp_path / "no", "--state", state)
    assert gone.returncode == 1
    assert "pass --archived" in gone.stderr
    done = await ugallu("export", NAMES[0], tmp_path / "one", "--archived", "--state", state)
    assert done.returncode == 0, done.stderr
    assert await facts(tmp_path / "one") == {NAMES[0]: True, "er-1": True}
    done = await ugallu("export", tmp_path / "all", "--correlation", "c0ffee", "--archived", "--state", state)
    assert done.returncode == 0, done.stderr
    assert await facts(tmp_path / "all") == dict.fromkeys([*NAMES, "er-1"], True)
    for path in (tmp_path / "all").rglob("*.json"):
        assert str(tmp_path).encode() not in path.read_bytes(), "a folder names no place on the machine of its owner"
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert {fact.get("listed", "")[:8] for fact in manifest["facts"] if fact.get("archived")} == {"archive/"}
    archived = {fact["name"]: fact.get("archived", "") for fact in manifest["facts"]}
    assert archived[NAMES[0]].startswith("cr-snapshots/test/")
    assert archived[NAMES[1]] == ""


async def test_an_event_is_proven_without_its_bundle_object(state: Path, tmp_path: Path) -> None:
    """A bundle that is gone without a copy: its event remembers its uid, and the store has the evidence."""
    async with collecting(state) as (cluster, collector):
        await collector.collect((SecurityEvent, NAMES[1]))
        await cluster.delete(AttestationBundle, f"att-se-{NAMES[1]}")
        await cluster.delete(AttestationBundle, f"att-se-{NAMES[2]}")
    done = await ugallu("export", *NAMES[1:], tmp_path / "two", "--archived", "--state", state)
    assert done.returncode == 0, done.stderr
    assert await facts(tmp_path / "two") == dict.fromkeys(NAMES[1:], True)


async def test_a_copy_that_was_changed_is_told(state: Path, tmp_path: Path) -> None:
    """The chain names each copy by its digest, and each manifest the one before."""
    async with collecting(state) as (_, collector):
        for name in NAMES[:2]:
            await collector.collect((SecurityEvent, name))
    for pattern in ("*.yaml", "manifests/*.json"):
        found = (state / "evidence" / "store" / "objects" / "cr-snapshots").rglob(pattern)
        path = min(found)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"SecurityEvent", b"SecurityEvenT"))
        done = await ugallu("export", tmp_path / "x", "--correlation", "c0ffee", "--archived", "--state", state)
        assert done.returncode == 1, done.stderr
        assert path.name in done.stderr
        assert not (tmp_path / "x").exists()
        path.write_bytes(content)


async def test_a_bucket_is_read_as_its_config_says(tmp_path: Path) -> None:
    """Under the address it has from here, with mounted credentials; who signs is named in it; no more is read than is
    wanted, and what lies in a bucket of before is found there.
    """
    roots = FakeSigstore(ManualClock()).trusted_root
    for name, content in {
        "ugallu-trusted-root/trusted-root.json": roots,
        "ugallu-worm-credentials/access-key": ACCESS.encode(),
        "ugallu-worm-credentials/secret-key": SECRET.encode(),
    }.items():
        write(tmp_path / name, content)
    spec = WORMConfigSpec(
        endpoint="http://store.evidence.svc:8333",
        bucket="evidence",
        credentials_secret_ref=LocalObjectReference(name="ugallu-worm-credentials"),
        encryption=EncryptionConfig(mode=EncryptionMode.SSE_S3),
    )
    key = keys.from_spki(spki_of(new_key()))
    clock = SystemClock()
    cluster = EmbeddedCluster.in_memory(clock=clock)
    await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace="ugallu-system"), spec=spec))
    async with FakeS3(clock).serving() as fake:
        for name in ("evidence", "before"):
            fake.bucket(name)
            store = bucket(msgspec.structs.replace(spec, endpoint=fake.url, bucket=name), tmp_path, clock)
            until = clock.now() + dt.timedelta(days=1)
            await store.put("a/b", name.encode(), media_type="text/plain", until=until)
            await store.put(SIGNERS, roll.written([key]), media_type="application/json", until=None)
            await store.aclose()
        settings = Settings(secrets=str(tmp_path))
        async with holdings(cluster, settings, endpoint=fake.url, signers=(WHO,)) as held:
            assert held.trust.signers == (WHO, key)
            assert trusted_root.read(held.root) == trusted_root.read(roots)
            for name in ("evidence", "before"):
                stored, content = await held.read(f"s3://{name}/a/b", 100)
                assert content == name.encode()
                assert stored.until is not None
            _, part = await held.read("s3://evidence/a/b#bytes=1-3", 100)
            assert part == b"vid"
            with pytest.raises(TooLargeError):
                await held.read("s3://evidence/a/b", 3)
        nobody = Settings(secrets=str(tmp_path / "none"))
        with pytest.raises(PermanentError, match="which logs and authorities to believe"):
            async with holdings(cluster, nobody, endpoint=fake.url):
                pass
    await cluster.close()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def link(name: str, **spec: object) -> Link:
    made = event(name)
    return msgspec.convert(
        msgspec.to_builtins(msgspec.structs.replace(made, spec=made.spec))
        | {
            "spec": {
                "detectedAt": NOON,
                "subject": {"kind": "Pod", "namespace": "shop", "name": "web", "uid": "u"},
                **spec,
            }
        },
        Link,
    )


CAUSE = msgspec.to_builtins(ObjectReference(kind="SecurityEvent", name="a", uid="uid-a"))
LINKS = [
    link("a", correlationID="one"),
    link("b", parents=[CAUSE], detectedAt="2026-01-01T13:00:00Z"),
    link("c", correlationID="one", signals={"incident.uid": "i"}, subject={"kind": "Node", "name": "n"}),
    link("d", signals={"incident.uid": "i"}, detectedAt="2026-01-01T11:00:00Z"),
    link("e", correlationID="two"),
]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (Asked(names=("e",)), "e"),
        (Asked(correlation_id="one"), "ac"),
        (Asked(correlation_id="one", names=("b",)), "acb"),
        (Asked(subject="Pod/shop/web", since="2026-01-01T12:00:00Z"), "aeb"),
        (Asked(subject="Node/n"), "c"),
        (Asked(subject="u", until="2026-01-01T11:30:00Z"), "d"),
        (Asked(names=("a",), related=True), "dacb"),
        (Asked(names=("d",), related=True), "dacb"),
        (Asked(names=("e",), related=True), "e"),
        (Asked(labels="nobody=has"), ""),
    ],
)
def test_events_are_chosen_by_what_ties_them(asked: Asked, names: str) -> None:
    """By name, correlation, subject and time; related is whoever shares an id, a capture, a cause or an effect."""
    assert "".join(found.metadata.name for found in choose(LINKS, asked)) == names


def test_a_name_that_nobody_has_is_an_error() -> None:
    """Even beside others that are found."""
    with pytest.raises(NotFoundError):
        choose(LINKS, Asked(names=("a", "x")))


def test_each_url_finds_its_store(tmp_path: Path) -> None:
    """The bucket of today below its prefix, one of before without, the directory; nothing else is asked."""
    worm = WORMConfigSpec(
        endpoint="http://127.0.0.1:1",
        bucket="now",
        key_prefix="p/",
        encryption=EncryptionConfig(mode=EncryptionMode.NONE),
    )
    stores = Stores(None, worm, tmp_path)
    assert stores.behind("s3://now/p/x") is stores.bucket
    other = stores.behind("s3://before/x")
    assert other is not stores.bucket
    assert other.key("s3://before/x") == "x"
    for url in ("file:///x/objects/y", "https://example.org/x", "x"):
        with pytest.raises(PermanentError, match="no evidence store"):
            stores.behind(url)
