"""What the doctor says of a healthy state and of each illness, without touching either."""

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec
from ugallu.api.meta import Metadata, ObjectReference
from ugallu.cli import diagnosis
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.evidence.export import Found
from ugallu.evidence.keys import to_pem
from ugallu.evidence.roll import Roll
from ugallu.evidence.signers.local import open_key
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings, load
from ugallu.testing.exporting import Shelf, event, response
from ugallu.testing.sigstore import WHO

YEAR = dt.timedelta(days=365)
SETTINGS = load({}, environ={})


async def a_state(path: Path) -> Path:
    """Return a state directory with a cluster, a key and a journal of ten records."""
    await EmbeddedCluster.open(path).close()
    open_key(path / "evidence" / "keys" / "attestor.key")
    journal = SegmentedJournal(
        path / "journal", Retention(), clock=SystemClock(), metrics=Metrics(), log=logger(LogSettings(level="error"))
    )
    for number in range(10):
        await journal.append([b"%d" % number * 50])
    journal.close()
    return path


def examined(path: Path) -> Mapping[str, diagnosis.Finding]:
    return {one.check: one for one in diagnosis.state(path, SETTINGS, SystemClock())}


async def test_healthy_state_is_called_so(tmp_path: Path) -> None:
    """Every check of a sound state is ok, inside and out."""
    path = await a_state(tmp_path / "s")
    found = [*examined(path).values(), *await diagnosis.contents(path, SETTINGS, SystemClock())]
    assert {one.verdict for one in found if one.check != "disk"} == {"ok"}, found


async def test_examination_changes_nothing(tmp_path: Path) -> None:
    """Names, sizes and times of all files are as before."""
    path = await a_state(tmp_path / "s")

    def listing() -> dict[str, tuple[int, int]]:
        files = [file for file in path.rglob("*") if file.is_file() and "-shm" not in file.name]
        return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}

    before = listing()
    examined(path)
    await diagnosis.contents(path, SETTINGS, SystemClock())
    assert listing() == before


async def test_open_directory_and_open_key_fail(tmp_path: Path) -> None:
    """What others may read is a failure with the chmod that mends it."""
    path = await a_state(tmp_path / "s")
    path.chmod(0o755)
    (path / "evidence" / "keys" / "attestor.key").chmod(0o644)
    found = examined(path)
    assert (found["permissions"].verdict, found["permissions"].fix) == ("fail", f"chmod 700 {path}")
    assert found["key attestor.key"].verdict == "fail"
    assert "chmod 600" in found["key attestor.key"].fix


async def test_damaged_journal_fails(tmp_path: Path) -> None:
    """A flipped byte in the middle of a segment is counted as damage."""
    path = await a_state(tmp_path / "s")
    [segment] = (path / "journal").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    assert examined(path)["journal"].verdict == "fail"


async def test_lock_names_its_living_holder(tmp_path: Path) -> None:
    """While a process has the state, the doctor says which; afterwards it is free, whatever the file says."""
    path = await a_state(tmp_path / "s")
    cluster = EmbeddedCluster.open(path)
    assert f"pid {os.getpid()}" in examined(path)["lock"].detail
    await cluster.close()
    assert "free" in examined(path)["lock"].detail


async def test_fresh_directory_is_no_illness(tmp_path: Path) -> None:
    """Before the first run there is nothing, and nothing wrong with that."""
    path = tmp_path / "s"
    path.mkdir(mode=0o700)
    found = [*examined(path).values(), *await diagnosis.contents(path, SETTINGS, SystemClock())]
    assert {one.verdict for one in found if one.check != "disk"} == {"ok"}, found


@pytest.mark.parametrize(
    ("lost", "check"),
    [
        ("cluster.db", "cluster"),
        ("journal/*.seg", "journal"),
        ("evidence/log", "log"),
        ("evidence/keys/attestor.key", "key attestor.key"),
        ("evidence/keys/log.key", "key log.key"),
    ],
)
async def test_what_was_there_and_is_gone_fails(tmp_path: Path, lost: str, check: str) -> None:
    """A part that left traces is missed: none is taken for one that is yet to come."""
    path = await a_state(tmp_path / "s")
    open_key(path / "evidence" / "keys" / "log.key")
    (path / "journal" / "cursors").mkdir(exist_ok=True)
    (path / "journal" / "cursors" / "outbox.cursor").write_bytes(b"")
    (path / "evidence" / "log").mkdir()
    (path / "evidence" / "keys" / "log.witness").write_bytes(b"")
    (path / "evidence" / "ugallu.pub").write_bytes(b"")
    [part] = path.glob(lost)
    part.rename(tmp_path / "gone")
    contents = {one.check: one for one in await diagnosis.contents(path, SETTINGS, SystemClock())}
    found = {**examined(path), **contents}[check]
    assert found.verdict == "fail"
    assert "gone" in found.detail


async def test_a_state_whose_objects_are_on_kubernetes_misses_no_database(tmp_path: Path) -> None:
    """Journal, keys and log are examined as ever; bundles come from the cluster, and no error there says restore."""
    path = await a_state(tmp_path / "s")
    (path / "cluster.db").unlink()
    found = await diagnosis.contents(path, SETTINGS, SystemClock(), embedded=False)
    assert [(one.check, one.verdict) for one in found] == [("log", "ok")]
    elsewhere = EmbeddedCluster.open(tmp_path / "other")
    assert await diagnosis.archived(path, elsewhere, SETTINGS) == diagnosis.NOTHING_SEALED
    shelf = Shelf()
    await keep(path, elsewhere, await shelf.sealed(event("se-1")), shelf)
    unseen = await diagnosis.archived(path, elsewhere, SETTINGS)
    assert unseen.verdict == "warn"
    assert "backup" not in unseen.fix
    await elsewhere.close()


async def keep(path: Path, cluster: EmbeddedCluster, found: Found, shelf: Shelf | None = None) -> None:
    """Have a bundle in the cluster, and what it names in the archive of this state."""
    assert found.bundle is not None
    store = DirectoryStore(path / "evidence" / "store", SystemClock())
    store.open()
    status = msgspec.to_builtins(found.bundle.status)
    for ref in (*status["bundles"], status["wormRef"], status["subjectRef"]):
        if shelf is not None:
            content, key = shelf.contents[ref["url"]], ref["url"].removeprefix("s3://evidence/")
            stored = await store.put(key, content, media_type=ref["mediaType"], until=SystemClock().now() + YEAR)
            ref["url"] = stored.url
    store.close()
    await cluster.create(msgspec.structs.replace(found.bundle, metadata=Metadata(name=found.bundle.metadata.name)))
    await cluster.patch_status(AttestationBundle, found.bundle.metadata.name, status)


@pytest.mark.parametrize("roles", [("fulcio",), ("key",), ("key", "fulcio")])
async def test_evidence_of_every_signer_is_read_again(tmp_path: Path, roles: tuple[str, ...]) -> None:
    """By a certificate, an engine's key or both, of an event or a response: verified, changed, or without a root."""
    path, shelf = await a_state(tmp_path / "s"), Shelf()
    cluster = EmbeddedCluster.open(path)
    first = event("se-1")
    await keep(path, cluster, await shelf.sealed(first, *roles), shelf)
    await keep(path, cluster, await shelf.sealed(response("er-1", first), *roles), shelf)
    await cluster.close()
    Roll(path / "evidence" / "signers.json").add(shelf.public, WHO)

    async def archive(secrets: Path) -> diagnosis.Finding:
        settings = load({"secrets": str(secrets)}, environ={})
        found = {one.check: one for one in await diagnosis.contents(path, settings, SystemClock())}
        return found["archive"]

    unrooted = await archive(tmp_path / "none")
    assert (unrooted.verdict, "--secrets" in unrooted.fix) == ("warn", True)
    root = tmp_path / "secrets" / "ugallu-trusted-root" / "trusted-root.json"
    root.parent.mkdir(parents=True)
    root.write_bytes(shelf.services.trusted_root)
    verified = await archive(tmp_path / "secrets")
    assert (verified.verdict, verified.detail) == ("ok", "2 sealed bundles verify from their archived bytes")
    [blob] = (path / "evidence" / "store").rglob(f"uid-er-1.{roles[-1]}.sigstore.json")
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-2] + b" }")
    changed = await archive(tmp_path / "secrets")
    assert changed.verdict == "fail"
    assert changed.detail.startswith("1 of 2 sealed bundles do not verify; er-1: ")


async def test_evidence_in_a_bucket_is_not_taken_for_none(tmp_path: Path) -> None:
    """What was sealed elsewhere is counted, and said where it is looked at."""
    path = await a_state(tmp_path / "s")
    cluster = EmbeddedCluster.open(path)
    await keep(path, cluster, await Shelf().sealed(event("se-1"), "fulcio"))
    await cluster.close()
    [found] = [one for one in await diagnosis.contents(path, SETTINGS, SystemClock()) if one.check == "archive"]
    assert found.detail == "1 bundles are sealed; 1 lie in a bucket, `ugallu export` verifies those"


async def test_public_key_of_another_fails(tmp_path: Path) -> None:
    """The key beside the evidence must be the one that signs."""
    path = await a_state(tmp_path / "s")
    other = open_key(tmp_path / "other.key")
    (path / "evidence" / "ugallu.pub").write_bytes(to_pem(other.public))
    assert examined(path)["key attestor.key"].verdict == "fail"


async def test_object_that_is_no_json_fails(tmp_path: Path) -> None:
    """Damage within the database is a finding, whatever the decoder makes of it."""
    path = await a_state(tmp_path / "s")
    cluster = EmbeddedCluster.open(path)
    spec = AttestationBundleSpec(attested_for=ObjectReference(kind="SecurityEvent", name="se-1"))
    await cluster.create(AttestationBundle(metadata=Metadata(name="to-damage"), spec=spec))
    await cluster.close()
    file = path / "cluster.db"
    file.write_bytes(file.read_bytes().replace(b'{"', b"{{"))
    [found] = [one for one in await diagnosis.contents(path, SETTINGS, SystemClock()) if one.check == "cluster"]
    assert found.verdict == "fail"
    assert found.fix.startswith("restore --state from a backup")


def test_file_in_place_of_a_directory_fails(tmp_path: Path) -> None:
    """It is there, and is no directory: both are said right."""
    (tmp_path / "s").write_bytes(b"")
    [found] = examined(tmp_path / "s").values()
    assert found.detail.endswith("is no directory")


def test_operator_that_is_not_installed_fails() -> None:
    """Whoever asks for it by name learns what there is."""
    found = next(iter(diagnosis.installation(["nobody"])))
    assert (found.verdict, found.detail) == ("fail", "no operator is called nobody")
    assert "audit-detection" in found.fix


async def test_state_from_the_future_fails(tmp_path: Path) -> None:
    """Files newer than the clock mean that the clock is wrong, and evidence times would be."""
    path = await a_state(tmp_path / "s")
    ahead = SystemClock().now().timestamp() + 3600
    os.utime(path / "cluster.db", (ahead, ahead))
    assert examined(path)["clock"].verdict == "fail"


def test_missing_state_fails(tmp_path: Path) -> None:
    """A directory that is not there is one failure, not ten."""
    assert [one.verdict for one in examined(tmp_path / "none").values()] == ["fail"]


@pytest.mark.parametrize(("age", "size", "verdict"), [(0, 10, "ok"), (3600, 10, "warn"), (0, 0, "warn")])
def test_audit_logs_are_alive_or_not(tmp_path: Path, age: int, size: int, verdict: str) -> None:
    """A log that is written is ok; an old or an empty one is a warning."""
    log = tmp_path / "audit.log"
    log.write_bytes(b"x" * size)
    when = SystemClock().now().timestamp() - age
    os.utime(log, (when, when))
    assert [one.verdict for one in diagnosis.audit_logs([log], SystemClock())] == [verdict]


def test_missing_audit_log_fails(tmp_path: Path) -> None:
    """A log that is not there is a failure with a hint."""
    [found] = diagnosis.audit_logs([tmp_path / "none"], SystemClock())
    assert found.verdict == "fail"
    assert found.fix


def test_installation_is_sound() -> None:
    """Every installed operator can be imported."""
    assert {one.verdict for one in diagnosis.installation()} == {"ok"}
