"""`ugallu verify`: whose word a verdict rests on is told, and never taken silently from what is being judged."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from ugallu.cli.main import main
from ugallu.evidence import bundle, keys, statement
from ugallu.evidence.dsse import pae
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope
from ugallu.testing.clock import ManualClock
from ugallu.testing.sigstore import WHO, FakeSigstore, certified, new_key, sign, spki_of

IDENTITY = ("--identity", WHO.name, "--issuer", WHO.issuer)


@pytest.fixture
def services() -> FakeSigstore:
    return FakeSigstore(ManualClock())


def ugallu(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command line; returns its status, what it told, and what it said beside."""
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        status = main([str(word) for word in arguments])
    return status, told.getvalue(), said.getvalue()


def payload(spec: bytes, **predicate: object) -> bytes:
    return statement.build(
        [statement.subject_of("SecurityEvent/x@v1alpha1", spec)], statement.EVENT_PREDICATE, predicate
    )


async def put(services: FakeSigstore, folder: Path, name: str, spec: bytes, envelope: Envelope, leg: str = "") -> None:
    """Log an envelope, and write what an export holds of it."""
    log = services.rekor.log
    entry = await RekorV1(services.rekor, log, Witness(log), services.clock).add(envelope)
    (folder / f"{name}{leg}.sigstore.json").write_bytes(bundle.write(envelope, entry))
    (folder / f"{name}.spec.json").write_bytes(spec)
    (folder / "trusted-root.json").write_bytes(services.trusted_root)


class Key:
    """A key, its public half in the folder."""

    def __init__(self, folder: Path) -> None:
        self._key = new_key()
        self._public = keys.from_spki(spki_of(self._key))
        (folder / "ugallu.pub").write_bytes(keys.to_pem(self._public))

    def envelope(self, content: bytes) -> Envelope:
        signature = sign(self._key, pae(STATEMENT_MEDIA_TYPE, content))
        return Envelope(STATEMENT_MEDIA_TYPE, content, signature, key=self._public)


async def test_a_name_counts_only_under_a_root_that_the_reader_brings(services: FakeSigstore, tmp_path: Path) -> None:
    """A forger's own authorities beside a forged bundle certify any name: without --trusted-root that is refused."""
    spec = b'{"type":"NothingHappened"}'
    await put(services, tmp_path, "se-1", spec, certified(services.fulcio, STATEMENT_MEDIA_TYPE, payload(spec)))
    for path in (tmp_path, tmp_path / "se-1.sigstore.json"):
        status, told, said = ugallu("verify", path, *IDENTITY)
        assert (status, told) == (2, "")
        assert "pass --trusted-root" in said
    mine = tmp_path.parent / "mine.json"
    mine.write_bytes((tmp_path / "trusted-root.json").read_bytes())
    status, told, said = ugallu("verify", tmp_path, *IDENTITY, "--trusted-root", mine)
    assert status == 0, told
    assert "note:" not in told
    mine.write_bytes(FakeSigstore(ManualClock()).trusted_root)
    assert ugallu("verify", tmp_path, *IDENTITY, "--trusted-root", mine)[0] == 1


async def test_what_came_from_the_folder_is_told(services: FakeSigstore, tmp_path: Path) -> None:
    """Key, trusted root: of each that was not given a note says so, beside JSON as well."""
    await put(services, tmp_path, "se-1", b"1", Key(tmp_path).envelope(payload(b"1")))
    key, root = ("--key", tmp_path / "ugallu.pub"), ("--trusted-root", tmp_path / "trusted-root.json")
    for given, notes in (((), 2), (key, 1), (root, 1), ((*key, *root), 0)):
        status, told, said = ugallu("verify", tmp_path, *given)
        assert (status, told.count("note: "), said) == (0, notes, "")
        status, told, said = ugallu("verify", tmp_path, "--json", *given)
        assert json.loads(told)["ok"]
        assert (status, said.count("note: ")) == (0, notes)


async def test_bundles_of_several_events_stand_each_for_itself(services: FakeSigstore, tmp_path: Path) -> None:
    """A folder of two events' bundles that all verify is verified; `--any` asks for one good bundle of each event."""
    key = Key(tmp_path)
    for name, spec in (("se-1", b"1"), ("se-2", b"2")):
        await put(services, tmp_path, name, spec, key.envelope(payload(spec)))
    assert ugallu("verify", tmp_path)[0] == 0
    await put(services, tmp_path, "se-2", b"2", Key(tmp_path.parent).envelope(payload(b"2")), leg=".openbao")
    assert ugallu("verify", tmp_path)[0] == 1
    assert ugallu("verify", tmp_path, "--any")[0] == 0
    (tmp_path / "se-2.sigstore.json").unlink()
    assert ugallu("verify", tmp_path, "--any")[0] == 1


async def test_two_statements_prove_two_things_and_that_is_said(services: FakeSigstore, tmp_path: Path) -> None:
    """With `--any` the bundles over a subject must be about one statement; where they are not, a line says so."""
    key = Key(tmp_path)
    await put(services, tmp_path, "se-1", b"1", key.envelope(payload(b"1", n=1)))
    await put(services, tmp_path, "se-1", b"1", key.envelope(payload(b"1", n=2)), leg=".openbao")
    status, _, said = ugallu("verify", tmp_path, "--any")
    assert status == 1
    assert "different statements" in said
