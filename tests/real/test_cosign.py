"""Stock cosign as the judge of our evidence, offline."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ugallu.evidence import bundle, kit, statement
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE
from ugallu.evidence.trusted_root import read as read_root
from ugallu.evidence.verify import verify
from ugallu.testing.evidence import make_event, open_evidence, seal, sign

pytestmark = pytest.mark.real

Cosign = Callable[..., subprocess.CompletedProcess[str]]


def line(name: str, **changes: str) -> list[str]:
    return [changes.get(word, word) for word in kit.cosign_line(name).split()[1:]]


async def sealed(folder: Path, count: int) -> list[kit.Kit]:
    evidence = open_evidence(folder / "state")
    kits = [(await seal(evidence, make_event(f"se-{number:024x}")))[0] for number in range(count)]
    evidence.close()
    return kits


async def test_exported_events_verify_with_stock_cosign(cosign: Cosign, tmp_path: Path) -> None:
    """The command that the kit's README names verifies the first entry of a log, a full tile's last, and one behind."""
    kits = await sealed(tmp_path, 258)
    for number in (0, 1, 255, 256, 257):
        folder = tmp_path / f"kit{number}"
        kit.export(kits[number], folder)
        done = cosign(folder, *line(kits[number].name))
        assert done.returncode == 0, done.stderr
        assert "Verified OK" in done.stderr + done.stdout
        assert kit.cosign_line(kits[number].name) in (folder / "README.txt").read_text()


async def test_nothing_in_a_kit_names_this_machine(tmp_path: Path) -> None:
    """A kit holds no path of the machine that made it."""
    (made,) = await sealed(tmp_path, 1)
    for path in kit.export(made, tmp_path / "kit"):
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content
        for part in json.loads(content).get("dsseEnvelope", {}).values() if path.suffix == ".json" else ():
            if isinstance(part, str):
                assert str(tmp_path).encode() not in base64.b64decode(part + "==")


async def test_1024_events_share_one_statement(cosign: Cosign, tmp_path: Path) -> None:
    """One Statement, one log entry, 1,024 subjects: each verifies, another does not; 1,025 are refused on making."""
    evidence = open_evidence(tmp_path / "state")
    specs = [b'{"number":%d}' % number for number in range(1024)]
    envelope = await sign(evidence, *specs)
    entry = await evidence.log.add(envelope)
    made = kit.Kit("x", bundle.write(envelope, entry), specs[0], evidence.key, evidence.trusted_root)
    kit.export(made, tmp_path / "kit")
    for content, status in ((specs[0], 0), (specs[511], 0), (specs[1023], 0), (b'{"number":1024}', 1)):
        (tmp_path / "kit" / "x.spec.json").write_bytes(content)
        assert cosign(tmp_path / "kit", *line("x")).returncode == status
        report = verify(made.bundle, key=made.key, root=read_root(made.trusted_root), subject=content)
        assert report.ok is (status == 0)
    with pytest.raises(Exception, match="1025 subjects"):
        statement.build([statement.subject_of("x", b"x")] * 1025, statement.EVENT_PREDICATE, {})
    evidence.close()


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


ENTRY = "verificationMaterial.tlogEntries.0."
UNCHECKED_BY_COSIGN = {
    # Copies of what stands elsewhere. cosign 3.1.3 takes size and root from the checkpoint and rebuilds the entry's
    # body from envelope and key, so a changed copy that still parses deceives nobody. Our own verifier compares them.
    f"{ENTRY}canonicalizedBody",
    f"{ENTRY}inclusionProof.rootHash",
    f"{ENTRY}inclusionProof.treeSize",
    f"{ENTRY}inclusionProof.logIndex",
    f"{ENTRY}kindVersion.kind",
    f"{ENTRY}kindVersion.version",
    f"{ENTRY}logIndex",
    "verificationMaterial.publicKey.hint",
}


async def test_one_changed_byte_in_any_field_is_refused_by_cosign(cosign: Cosign, tmp_path: Path) -> None:
    """cosign refuses a kit with one changed byte in any field of the bundle that it looks at, or in the subject."""
    kits = await sealed(tmp_path, 3)
    made = kits[1]
    folder = tmp_path / "kit"
    kit.export(made, folder)
    path = folder / f"{made.name}.sigstore.json"
    fields = list(leaves(json.loads(made.bundle)))
    assert len(fields) >= 15
    accepted = set()
    for field in fields:
        changed = json.loads(made.bundle)
        spot = changed
        for step in field[:-1]:
            spot = spot[step]
        text = spot[field[-1]]
        middle = len(text) // 2
        spot[field[-1]] = text[:middle] + _other(text[middle]) + text[middle + 1 :]
        path.write_text(json.dumps(changed))
        if cosign(folder, *line(made.name)).returncode == 0:
            accepted.add(".".join(map(str, field)))
        report = verify(path.read_bytes(), key=made.key, root=read_root(made.trusted_root), subject=made.spec)
        assert not report.ok, field
    assert accepted <= UNCHECKED_BY_COSIGN
    path.write_bytes(made.bundle)
    assert cosign(folder, *line(made.name)).returncode == 0
    (folder / f"{made.name}.spec.json").write_bytes(made.spec.replace(b"web", b"wex", 1))
    assert cosign(folder, *line(made.name)).returncode != 0


def _other(character: str) -> str:
    if character.isdigit():
        return str((int(character) + 1) % 10)
    return "A" if character != "A" else "B"


async def test_cosign_refuses_what_another_log_or_key_vouches_for(cosign: Cosign, tmp_path: Path) -> None:
    """A kit with the key or the trusted root of another installation does not verify."""
    (made,) = await sealed(tmp_path / "a", 1)
    (other,) = await sealed(tmp_path / "b", 1)
    kit.export(made, tmp_path / "kit")
    kit.export(other, tmp_path / "other")
    for name in (kit.KEY_FILE, kit.ROOT_FILE):
        assert cosign(tmp_path / "kit", *line(made.name, **{name: f"../other/{name}"})).returncode != 0
    assert cosign(tmp_path / "kit", *line(made.name)).returncode == 0
    assert STATEMENT_MEDIA_TYPE.encode() in made.bundle
