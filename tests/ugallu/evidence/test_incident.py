"""Exported incidents: what is whole holds; whatever is changed, swapped, taken out or put in is told by its name."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.api.meta import ObjectReference
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import copies, custody, guide
from ugallu.evidence import folder as folders
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.export import About, Exporter
from ugallu.evidence.folder import MANIFEST, SUMS, Asked, Manifest, Said, Writer
from ugallu.evidence.incident import FORENSICS, Judgement, chunks, judge, trust_of
from ugallu.evidence.ports import PublicKey, Stored
from ugallu.evidence.trust import Trust
from ugallu.testing.exporting import Shelf, event, export, response
from ugallu.testing.sigstore import new_key


async def incident(shelf: Shelf, folder: Path) -> Path:
    """Three events (two in one statement), a response with a capture, a list of captures; signers of every kind."""
    snapshot = shelf.put("forensics/web.tar.gz", b"snapshot", "application/x-tar+gzip")
    listed = {"schema": "ugallu.io/forensics-manifest/v1", "chunks": [msgspec.to_builtins(snapshot)]}
    manifest = shelf.put("forensics/manifest.json", json.dumps(listed).encode(), FORENSICS)
    first = event("se-1")
    cause = ObjectReference(kind="SecurityEvent", name="se-1", uid="uid-se-1")
    found = [
        await shelf.sealed(first, "key", "fulcio"),
        *await shelf.shared([event("se-2", parents=[cause]), event("se-3")]),
        await shelf.sealed(response("er-1", first, evidence=[snapshot]), "fulcio"),
        await shelf.sealed(response("er-2", first, evidence=[manifest]), "key"),
    ]
    await export(shelf, found, folder)
    return folder


def judged(folder: Path, shelf: Shelf | None = None) -> Judgement:
    """Judge a folder, by its own word or by what is to be believed."""
    content = (folder / MANIFEST).read_bytes()
    manifest = folders.read(content)
    return judge(folder, manifest, content, shelf.trust if shelf is not None else trust_of(folder, manifest))


def files_in(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def readable(content: bytes) -> bool:
    try:
        folders.read(content)
    except PermanentError:
        return False
    return True


def said(judgement: Judgement) -> set[tuple[Said, str]]:
    return {(finding.said, finding.what) for finding in judgement.findings}


def rebind(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Do what a forger does: change, and make every digest fit again."""
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    for file in raw["files"]:
        content = (folder / file["path"]).read_bytes()
        file |= {"sha256": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
    manifest = msgspec.convert(raw, Manifest)
    content = folders.write(manifest)
    (folder / MANIFEST).write_bytes(content)
    (folder / SUMS).write_bytes(folders.sums(manifest, content))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def test_signers_of_every_kind_stand_in_one_folder(shelf: Shelf, tmp_path: Path) -> None:
    """A key, a certificate and both at once; events alone and together; responses; captures and what lists them."""
    folder = await incident(shelf, tmp_path / "i")
    for found in (judged(folder), judged(folder, shelf)):
        assert found.findings == ()
        assert found.ok
        assert len(found.proofs) == 5
        assert found.blobs == 2
    assert len(list(folder.glob("shared/*.sigstore.json"))) == 1
    assert {path.name for path in folder.glob("events/se-1*.sigstore.json")} == {
        "se-1.key.sigstore.json",
        "se-1.fulcio.sigstore.json",
    }
    steps = json.loads((folder / "custody.json").read_text())
    what = {step["what"] for step in steps if step["of"] == "uid-er-1" and step.get("proven")}
    assert {"EvidenceUpload started", "EvidenceUpload Succeeded", "attested", "signed and logged"} <= what
    assert {"a try to log failed: Transient", "exported"} <= {step["what"] for step in steps if not step.get("proven")}


async def test_every_byte_of_a_folder_counts(shelf: Shelf, tmp_path: Path) -> None:
    """A byte changed anywhere: its file is named, or the two files that bind it name each other."""
    folder = await incident(shelf, tmp_path / "i")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        at = sum(name.encode()) % len(content)
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        if name != MANIFEST or readable(path.read_bytes()):
            found = judged(folder, shelf)
            assert not found.ok
            assert (Said.CHANGED, SUMS if name == MANIFEST else name) in said(found)
        path.write_bytes(content)
    assert judged(folder).ok


async def test_events_that_are_swapped_are_told_even_when_all_digests_fit(shelf: Shelf, tmp_path: Path) -> None:
    """Who puts one event's files in the place of another's, and binds the folder anew, is told by the signatures."""
    folder = await incident(shelf, tmp_path / "i")
    one, two = folder / "events" / "se-2.spec.json", folder / "events" / "se-3.spec.json"
    content, other = one.read_bytes(), two.read_bytes()
    assert content != other
    one.write_bytes(other)
    two.write_bytes(content)
    rebind(folder)
    found = judged(folder)
    assert {(Said.UNPROVEN, "SecurityEvent/se-2"), (Said.UNPROVEN, "SecurityEvent/se-3")} <= said(found)


@pytest.mark.parametrize("field", ["name", "uid"])
async def test_a_fact_under_another_name_is_not_proven(shelf: Shelf, tmp_path: Path, field: str) -> None:
    """Its evidence names it, whatever manifest and object say."""
    folder = await incident(shelf, tmp_path / "i")

    def rename(raw: dict[str, Any]) -> None:
        [fact] = [fact for fact in raw["facts"] if fact["name"] == "se-3"]
        document = json.loads((folder / fact["object"]).read_text())
        fact[field] = document["metadata"][field] = "other"
        (folder / fact["object"]).write_text(json.dumps(document))

    rebind(folder, rename)
    found = judged(folder)
    assert not found.ok
    assert any(finding.said is Said.UNPROVEN and "SecurityEvent/" in finding.what for finding in found.findings)


@pytest.mark.parametrize(
    ("path", "change", "what"),
    [
        ("events/se-1.json", lambda d: d["spec"]["signals"].update(user="nobody"), "SecurityEvent/se-1"),
        ("responses/er-1.json", lambda d: d["spec"]["action"].update(type="PodFreeze"), "EventResponse/er-1"),
        ("events/se-1.json", lambda d: d.update(kind="EventResponse"), "SecurityEvent/se-1"),
        ("events/se-1.attestation.json", lambda d: d["status"]["bundles"].pop(), "SecurityEvent/se-1"),
        (
            "events/se-2.attestation.json",
            lambda d: d["spec"]["attestedFor"].update(uid="uid-se-3"),
            "SecurityEvent/se-2",
        ),
        ("events/se-3.attestation.json", lambda d: d.clear(), "SecurityEvent/se-3"),
    ],
)
async def test_an_object_tells_what_was_attested(
    shelf: Shelf, tmp_path: Path, path: str, change: Callable[[Any], None], what: str
) -> None:
    """The readable object may not tell another story than the attested bytes."""
    folder = await incident(shelf, tmp_path / "i")
    document = json.loads((folder / path).read_text())
    change(document)
    (folder / path).write_text(json.dumps(document))
    rebind(folder)
    assert (Said.UNPROVEN, what) in said(judged(folder))


@pytest.mark.parametrize(
    ("path", "field", "lie", "what"),
    [
        ("events/se-2.json", "spec", {"type": "NothingHappened"}, "SecurityEvent/se-2"),
        ("events/se-2.attestation.json", "status", {"phase": "Failed"}, "SecurityEvent/se-2"),
        ("custody.json", "by", "somebody-else", "custody.json"),
    ],
)
async def test_a_field_that_stands_twice_is_no_proof(
    shelf: Shelf, tmp_path: Path, path: str, field: str, lie: object, what: str
) -> None:
    """One reader is shown the first, another the last: a file that can tell two stories proves neither."""
    folder = await incident(shelf, tmp_path / "i")
    text = (folder / path).read_text()
    (folder / path).write_text(text.replace(f'"{field}":', f'"{field}":{json.dumps(lie)},"{field}":', 1))
    rebind(folder)
    found = {finding.what: finding.why for finding in judged(folder).findings if finding.said is Said.UNPROVEN}
    assert "stands twice" in found[what]


async def test_a_folder_that_tells_of_nothing_is_not_verified(shelf: Shelf, tmp_path: Path) -> None:
    """Whoever takes all facts out leaves a folder that is whole, and proves nothing."""
    folder = await incident(shelf, tmp_path / "i")
    (folder / "custody.json").write_text("[]")
    rebind(folder, lambda raw: raw.update(facts=[], blobs=[]))
    found = judged(folder)
    assert (Said.UNPROVEN, MANIFEST) in said(found)
    assert not found.ok


async def test_a_blob_is_bound_by_what_was_signed(shelf: Shelf, tmp_path: Path) -> None:
    """Another content with a fitting manifest is told: the digest stands in the signed statement."""
    folder = await incident(shelf, tmp_path / "i")
    [blob] = folder.glob("blobs/*.tar.gz")
    blob.write_bytes(b"doctored")
    rebind(folder)
    found = judged(folder)
    assert not found.ok
    assert (Said.CHANGED, blob.relative_to(folder).as_posix()) in said(found)

    def forge(raw: dict[str, Any]) -> None:
        for one in raw["blobs"]:
            if one["path"].endswith(".tar.gz"):
                one["sha256"] = f"sha256:{hashlib.sha256(b'doctored').hexdigest()}"

    rebind(folder, forge)
    found = judged(folder)
    assert {Said.MISSING, Said.UNPROVEN} <= {finding.said for finding in found.findings}


async def test_a_fact_that_is_taken_out_leaves_marks(shelf: Shelf, tmp_path: Path) -> None:
    """Without the event, its responses and effects say what is missing, and its custody stands alone; the digest of
    the manifest, kept elsewhere, tells in any case.
    """
    folder = await incident(shelf, tmp_path / "i")
    before = judged(folder).digest

    def drop(raw: dict[str, Any]) -> None:
        gone = {path.relative_to(folder).as_posix() for path in folder.glob("events/se-1*")}
        for path in gone:
            (folder / path).unlink()
        raw["facts"] = [fact for fact in raw["facts"] if fact["name"] != "se-1"]
        raw["files"] = [file for file in raw["files"] if file["path"] not in gone]

    rebind(folder, drop)
    found = judged(folder)
    assert found.digest != before
    notes = {(finding.what, finding.why) for finding in found.findings if finding.said is Said.NOTE}
    assert ("EventResponse/er-1", "answers se-1, which is not in here") in notes
    assert ("SecurityEvent/se-2", "caused by se-1, which is not in here") in notes
    assert any(finding.what == "custody.json" and finding.said is Said.UNPROVEN for finding in found.findings)


async def test_custody_that_is_made_up_is_told(shelf: Shelf, tmp_path: Path) -> None:
    """Steps that are called proven are made anew from the bundles: one more and one less are both told."""
    folder = await incident(shelf, tmp_path / "i")
    path = folder / "custody.json"
    steps = json.loads(path.read_text())
    [attested] = [step for step in steps if step["of"] == "uid-se-1" and step["what"] == "attested"]
    attested["by"] = "somebody-else"
    path.write_text(json.dumps(steps))
    rebind(folder)
    found = {finding.said for finding in judged(folder).findings if finding.what == "custody.json"}
    assert found == {Said.MISSING, Said.UNPROVEN}


async def test_each_event_of_a_shared_statement_stands_alone(shelf: Shelf, tmp_path: Path) -> None:
    """One of many is exported with the one bundle and its own bytes, and proven by them."""
    _, second, _ = await shelf.shared([event(f"se-{number}") for number in range(3)])
    await export(shelf, [second], tmp_path / "one")
    found = judged(tmp_path / "one")
    assert found.ok
    assert [proof.fact.name for proof in found.proofs] == ["se-1"]
    assert b"se-1.spec.json" in (tmp_path / "one" / "COMMANDS.txt").read_bytes()


async def test_what_cannot_be_had_is_a_gap_with_its_reason(shelf: Shelf, tmp_path: Path) -> None:
    """Changed in the store, not sealed yet, gone, too large, named without a digest: the rest is exported and holds."""
    gone = shelf.put("gone", b"gone", "text/plain")
    del shelf.contents[gone.url]
    large = shelf.put("large", b"x" * 100, "text/plain")
    loose = msgspec.structs.replace(shelf.put("loose", b"loose", "text/plain"), sha256="")
    doctored = shelf.put("doctored", b"as it was", "text/plain")
    shelf.contents[doctored.url] = b"as it is now"
    good = await shelf.sealed(event("se-good", evidence=[gone, large, loose, doctored]))
    bad = await shelf.sealed(event("se-bad"))
    assert bad.bundle is not None
    assert bad.bundle.status.worm_ref is not None
    shelf.contents[bad.bundle.status.worm_ref.url] += b" "
    young = msgspec.structs.replace(await shelf.sealed(event("se-young")), bundle=None, bundle_whole=b"")
    await export(shelf, [good, bad, young], tmp_path / "i", most=50)
    found = judged(tmp_path / "i")
    told = {finding.what: (finding.said, finding.why) for finding in found.findings}
    assert told["SecurityEvent/se-bad"] == (Said.UNPROVEN, "the archive holds other bytes than status names")
    assert told["SecurityEvent/se-young"] == (Said.UNPROVEN, "not attested yet")
    assert told[gone.url] == (Said.UNPROVEN, "nothing is stored here")
    assert told[doctored.url] == (Said.UNPROVEN, "the archive holds other bytes than status names")
    assert told[loose.url] == (Said.UNPROVEN, "it is named without a digest")
    assert told[large.url][0] is Said.NOTE
    assert large.sha256 in told[large.url][1]
    assert [proof.fact.name for proof in found.proofs] == ["se-good"]
    assert "Not proven in here" in (tmp_path / "i" / "README.md").read_text()


async def test_a_key_is_named_by_itself_whatever_its_holder_calls_it(shelf: Shelf, tmp_path: Path) -> None:
    """Keys of a transit engine have names of their own, versions many: in a folder each has its file, and holds."""
    old = shelf.public
    first = await shelf.sealed(event("se-1"))
    shelf.key = new_key()
    second = await shelf.sealed(event("se-2"))
    called = [PublicKey(key.spki, f"openbao:transit/ugallu:{number}") for number, key in enumerate((old, shelf.public))]
    with Writer(tmp_path / "i") as out:
        trust = Trust(shelf.trust.root, tuple(called))
        exporter = Exporter(out, shelf.read, trust, shelf.services.trusted_root, most=1)
        for one in (first, second):
            await exporter.add(one, strict=True)
        exporter.finish(About("x", "2026-01-02T00:00:00Z", "", Asked()))
    assert judged(tmp_path / "i").findings == ()
    assert len(files_in(tmp_path, "i/keys/p256-*.pub")) == 2


async def test_a_copy_is_held_to_the_list_in_which_it_stands(shelf: Shelf, tmp_path: Path) -> None:
    """What the cluster has no more is shown as it was copied: status and labels too, which nobody signed."""
    one = await shelf.sealed(event("se-1"))
    entry = copies.Entry("cr-snapshots/x.yaml", digest(one.whole), "SecurityEvent", "se-1", "uid-se-1")
    made = copies.Manifest(copies.SCHEMA, "test", 1, "2026-01-02T00:00:00Z", copies.root_of((entry,)), (entry,))
    listing = ("0000000001-x.json", canonical(made))
    folder = tmp_path / "i"
    await export(shelf, [msgspec.structs.replace(one, archived=entry.key, listing=listing)], folder)
    assert judged(folder).findings == ()
    path = folder / "events" / "se-1.json"
    document = json.loads(path.read_text())
    document["metadata"]["labels"] = {"acknowledged": "yes"}
    path.write_text(json.dumps(document))
    rebind(folder)
    assert [(finding.what, finding.why) for finding in judged(folder).findings][:1] == [
        ("SecurityEvent/se-1", "archive/0000000001-x.json: names another copy than this")
    ]

    def unlist(raw: dict[str, Any]) -> None:
        del raw["facts"][0]["listed"]

    rebind(folder, unlist)
    assert (Said.UNPROVEN, "SecurityEvent/se-1") in said(judged(folder))


async def test_a_store_that_does_not_answer_makes_no_gaps(shelf: Shelf, tmp_path: Path) -> None:
    """Half a folder would pass for an incident with half of its evidence gone: there is none instead."""
    one = await shelf.sealed(event("se-1"))

    async def away(url: str, most: int) -> tuple[Stored, bytes]:
        raise TransientError("no connection", where=url)

    with pytest.raises(TransientError, match="no connection"), Writer(tmp_path / "i") as out:
        await Exporter(out, away, shelf.trust, shelf.services.trusted_root, most=1).add(one)
    assert files_in(tmp_path, "*") == []


async def test_a_stranger_is_told_whose_word_it_is(shelf: Shelf, tmp_path: Path) -> None:
    """Under other keys, another identity or another root nothing of the folder is proven."""
    folder = await incident(shelf, tmp_path / "i")
    found = judged(folder, Shelf())
    assert not found.ok
    assert found.proofs == ()
    assert {what for kind, what in said(found) if kind is Said.UNPROVEN} >= {"SecurityEvent/se-1", "EventResponse/er-2"}


async def test_commands_name_whose_signature_it_is(shelf: Shelf, tmp_path: Path) -> None:
    """A key by its file, a certificate by name and issuer; every bundle has its line."""
    folder = await incident(shelf, tmp_path / "i")
    lines = (folder / "COMMANDS.txt").read_text().splitlines()
    assert lines[0] == "sha256sum --check --quiet SHA256SUMS"
    assert len(lines) == 1 + 2 + 2 + 1 + 1
    assert sum("--key ugallu.pub" in line for line in lines) == 4
    assert sum("--certificate-identity https://kubernetes.io/" in line for line in lines) == 2
    assert sum("event-response/v1" in line for line in lines) == 2


def test_a_name_cannot_write_into_the_guide() -> None:
    """Names in a table stay in their cell."""
    assert guide._cell("a|b\n<c>") == "a\\|b\\u000a&lt;c>"


def manifest_of(*paths: str) -> dict[str, Any]:
    files = [{"path": path, "sha256": f"sha256:{'0' * 64}", "size": 1} for path in sorted(paths)]
    return {
        "schema": folders.SCHEMA,
        "madeBy": "x",
        "madeAt": "x",
        "trustedRoot": "trusted-root.json",
        "custody": "custody.json",
        "facts": [],
        "files": files,
    }


BASE = ("trusted-root.json", "custody.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(schema="x"), "schema"),
        (lambda m: m.update(more=1), "unknown field"),
        (lambda m: m["files"].append(m["files"][-1]), "stands twice"),
        (lambda m: m["files"].reverse(), "not in order"),
        (lambda m: m["files"][0].update(sha256="sha256:0"), "no SHA-256"),
        (lambda m: m["files"][0].update(size=-1), "no SHA-256 and size"),
        (lambda m: m.update(custody="other.json"), "none of its files"),
        (
            lambda m: m["facts"].append({"kind": "SecurityEvent", "name": "x", "uid": "u", "object": "custody.json"}),
            "prove",
        ),
        (
            lambda m: m["facts"].extend(
                [{"kind": "SecurityEvent", "name": "x", "uid": "u", "object": "custody.json", "gap": "g"}] * 2
            ),
            "stands twice",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change: Callable[[Any], None], says: str) -> None:
    """Each rule of the list has its sentence."""
    raw = manifest_of(*BASE)
    folders.read(json.dumps(raw).encode())
    change(raw)
    with pytest.raises(PermanentError, match=says):
        folders.read(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "a//b", ".x", "a/b/c/d", "a\\b", "", "x" * 201, SUMS]
)
def test_no_path_leads_out_of_a_folder(path: str, tmp_path: Path) -> None:
    """Neither reading nor writing follows one."""
    with pytest.raises(PermanentError):
        folders.read(json.dumps(manifest_of(*BASE, path)).encode())
    if path != SUMS:
        with Writer(tmp_path / "f") as out, pytest.raises(PermanentError, match="no path of a folder"):
            out.add(path, b"")


def test_a_doubled_field_is_refused() -> None:
    """What one reader verified, another would show."""
    text = json.dumps(manifest_of(*BASE))
    with pytest.raises(PermanentError, match="stands twice"):
        folders.read(text.replace('"custody":', '"custody": "x", "custody":').encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=100)
@given(
    st.binary(max_size=300)
    | st.dictionaries(st.sampled_from(sorted(manifest_of())), values).map(
        lambda d: json.dumps(manifest_of(*BASE) | d).encode()
    )
)
def test_whatever_is_read_is_a_manifest_or_an_error_of_ours(content: bytes) -> None:
    """A manifest that is read is written as it was meant, and read the same again."""
    try:
        manifest = folders.read(content)
    except PermanentError:
        return
    assert folders.read(folders.write(manifest)) == manifest


steps = st.builds(
    custody.Step, at=st.text(max_size=5), of=st.text(max_size=5), what=st.text(max_size=5), proven=st.booleans()
)


@settings(max_examples=100)
@given(st.lists(steps, max_size=4))
def test_steps_are_read_as_they_were_written(made: list[custody.Step]) -> None:
    """Whatever people are called."""
    assert sorted(custody.read(custody.write(made))) == sorted(made)


documents = st.dictionaries(
    st.sampled_from(["chunks", "url", "sha256", "at", "of", "what", "size"]), values, max_size=4
)


@settings(max_examples=100)
@given(st.binary(max_size=200) | (documents | st.lists(documents, max_size=3)).map(lambda d: json.dumps(d).encode()))
def test_lists_of_captures_and_steps_are_read_or_refused(content: bytes) -> None:
    """Whatever is given: what a forensics manifest lists, what a custody file says, or our own error."""
    with contextlib.suppress(PermanentError):
        assert all(ref.url is not None for ref in chunks(content))
    with contextlib.suppress(PermanentError):
        assert custody.read(content) is not None


@settings(max_examples=100)
@given(
    st.binary(max_size=200) | documents.map(lambda d: json.dumps({"schema": copies.SCHEMA, "entries": [d]}).encode())
)
def test_lists_of_copies_are_read_or_refused(content: bytes) -> None:
    """Whatever is given."""
    with contextlib.suppress(PermanentError):
        assert copies.read(content, "x").root


names = st.sampled_from(["a", "b/c", "b/d", "e/f/g", "h"])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(names, st.binary(max_size=5)), st.dictionaries(names, st.none() | st.binary(max_size=5)))
def test_a_folder_differs_by_what_was_done_to_it(
    tmp_path: Path, made: dict[str, bytes], after: dict[str, bytes | None]
) -> None:
    """Exactly what was removed, changed or added is named, and nothing else."""
    folder = tmp_path / "f"
    shutil.rmtree(folder, ignore_errors=True)
    with Writer(folder) as out:
        for path, content in made.items():
            out.add(path, content)
        for path in BASE:
            out.add(path, b"")
        raw = msgspec.convert(manifest_of(), Manifest)
        out.finish(msgspec.structs.replace(raw, files=out.files))
    expected: set[tuple[Said, str]] = set()
    for path, other in after.items():
        place = folder / path
        if other is None:
            place.unlink(missing_ok=True)
            expected |= {(Said.MISSING, path)} if path in made else set()
        elif other != made.get(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(other)
            expected.add((Said.CHANGED if path in made else Said.ADDED, path))
    content = (folder / MANIFEST).read_bytes()
    found = folders.compare(folders.read(content), content, folders.scan(folder))
    assert {(finding.said, finding.what) for finding in found} == expected
