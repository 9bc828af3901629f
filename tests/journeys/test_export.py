"""Evidence as a responder takes it away: a folder, and what `ugallu verify` says of it, whatever was done to it."""

import contextlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anyio import to_thread

from ugallu.api.event import SecurityEvent
from ugallu.cli.main import main
from ugallu.cluster.embedded.cluster import EmbeddedCluster


def ugallu(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in this process: there are many."""
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        status = main([str(word) for word in arguments])
    return subprocess.CompletedProcess(arguments, status, told.getvalue(), said.getvalue())


@pytest.fixture(scope="module")
def state(sealed: Any) -> Path:
    """The state directory after a sealed replay of the incident."""
    folder: Path = sealed.state
    return folder


@pytest.fixture(scope="module")
def names(state: Path) -> list[str]:
    """The events in it, in order of time."""
    return [
        item["metadata"]["name"]
        for item in json.loads(ugallu("events", "-o", "json", "--state", state).stdout)["items"]
    ]


@pytest.fixture
def kit(state: Path, names: list[str], tmp_path: Path) -> Path:
    """The folder of one event."""
    done = ugallu("export", names[3], tmp_path / "kit", "--state", state)
    assert done.returncode == 0, done.stderr
    assert f"ugallu verify {tmp_path / 'kit'}" in done.stderr
    assert "cosign verify-blob-attestation" in done.stderr
    assert all((tmp_path / "kit" / line).exists() for line in done.stdout.splitlines())
    return tmp_path / "kit"


def test_one_event_verifies_as_a_folder_and_alone(kit: Path, names: list[str]) -> None:
    """One command checks the folder; its bundle and bytes, key and trusted root verify without it too."""
    done = ugallu("verify", kit)
    assert done.returncode == 0, done.stdout
    assert "verified: 1 of 1 facts proven" in done.stdout
    assert "who made it" in done.stdout
    told = json.loads(ugallu("verify", kit, "--json").stdout)
    assert (told["ok"], [fact["name"] for fact in told["facts"]]) == (True, [names[3]])
    assert ugallu("verify", kit, "--manifest", told["manifest"]).returncode == 0
    assert (
        ugallu("verify", kit, "--key", kit / "ugallu.pub", "--trusted-root", kit / "trusted-root.json").returncode == 0
    )
    other = ugallu("verify", kit, "--manifest", "sha256:" + "0" * 64)
    assert other.returncode == 1
    assert "CHANGED    manifest.json" in other.stdout
    [bundle] = kit.glob("*/*.sigstore.json")
    [spec] = kit.glob("events/*.spec.json")
    alone = ugallu("verify", bundle, "--subject", spec, "--json")
    assert alone.returncode == 0, alone.stdout
    assert json.loads(alone.stdout)["ok"] is True


def test_a_byte_of_any_file_changed_is_told_by_name(kit: Path) -> None:
    """Whatever file of a folder is touched, the check fails and names it; the files that bind it name each other."""
    for path in sorted(path for path in kit.rglob("*") if path.is_file()):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        bad = ugallu("verify", kit)
        assert bad.returncode == 1, path
        assert path.name in bad.stdout + bad.stderr
        path.write_bytes(content)
    assert ugallu("verify", kit).returncode == 0


def test_files_that_come_or_go_are_told(kit: Path) -> None:
    """A file less, a file more, a link out of the folder: each is named."""
    for path in sorted(path for path in kit.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        bad = ugallu("verify", kit)
        assert bad.returncode == 1, path
        assert "missing" in (bad.stdout + bad.stderr).lower()
        assert path.name in bad.stdout + bad.stderr
        path.write_bytes(content)
    (kit / "events" / "more.json").write_text("{}")
    (kit / "out").symlink_to("/etc/passwd")
    bad = ugallu("verify", kit)
    assert bad.returncode == 1
    assert "ADDED      events/more.json" in bad.stdout
    assert "ADDED      out: a symbolic link" in bad.stdout


def test_what_lies_in_a_folder_is_shown_not_obeyed(kit: Path) -> None:
    """Names that a terminal would obey are written as codes."""
    (kit / "events" / "\x1b[2J\nok         SecurityEvent").write_text("{}")
    done = ugallu("verify", kit)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert not any(
        line.startswith("ok         SecurityEvent") and "key" not in line for line in done.stdout.splitlines()
    )
    hostile = kit / "x.sigstore.json"
    hostile.write_text('{"\\u001b[2J": 1}')
    assert "\x1b" not in ugallu("verify", hostile).stdout


def test_a_whole_incident_is_one_folder(state: Path, names: list[str], tmp_path: Path) -> None:
    """All events since a moment, in one folder that verifies with one command and names every command for stock tools."""
    since = "2026-11-25T01:03:00Z"
    done = ugallu("export", tmp_path / "i", "--since", since, "--by", "A. Nalyst", "--state", state)
    assert done.returncode == 0, done.stderr
    told = json.loads(ugallu("verify", tmp_path / "i", "--json").stdout)
    assert told["ok"]
    assert 20 < len(told["facts"]) < len(names)
    commands = (tmp_path / "i" / "COMMANDS.txt").read_text().splitlines()
    assert len(commands) == 1 + len(told["facts"])
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["exportedBy"] == "A. Nalyst"
    assert manifest["asked"] == {"since": since}
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "i", check=False)
    assert sums.returncode == 0


def test_what_is_related_comes_along(state: Path, names: list[str], tmp_path: Path) -> None:
    """An event that closes a fold brings the one that it closes, and the other way round."""
    items = json.loads(ugallu("events", "-o", "json", "--state", state).stdout)["items"]
    [(closing, first)] = [
        (i["metadata"]["name"], i["spec"]["parents"][0]["name"]) for i in items if i["spec"].get("parents")
    ]
    alone = ugallu("export", closing, tmp_path / "alone", "--state", state)
    assert alone.returncode == 0, alone.stderr
    assert f"caused by {first}, which is not in here" in ugallu("verify", tmp_path / "alone").stdout
    for number, name in enumerate((closing, first)):
        folder = tmp_path / str(number)
        assert ugallu("export", name, folder, "--related", "--state", state).returncode == 0
        told = json.loads(ugallu("verify", folder, "--json").stdout)
        assert {closing, first} <= {fact["name"] for fact in told["facts"]}
        assert told["findings"] == []


def test_subjects_and_correlations_choose(state: Path, names: list[str], tmp_path: Path) -> None:
    """What is asked for together must hold together."""
    items = json.loads(ugallu("events", "-o", "json", "--state", state).stdout)["items"]
    item = next(item for item in items if "namespace" in item["spec"]["subject"])
    subject = item["spec"]["subject"]
    about = f"{subject['kind']}/{subject['namespace']}/{subject['name']}"
    wanted = {i["metadata"]["name"] for i in items if i["spec"]["subject"].get("name") == subject["name"]}
    done = ugallu("export", tmp_path / "s", "--subject", about, "--state", state)
    assert done.returncode == 0, done.stderr
    told = json.loads(ugallu("verify", tmp_path / "s", "--json").stdout)
    assert {fact["name"] for fact in told["facts"]} <= wanted
    correlation = item["spec"]["correlationID"]
    none = ugallu("export", tmp_path / "n", "--subject", about, "--correlation", f"{correlation}?", "--state", state)
    assert (none.returncode, none.stderr) == (1, "No resources found\n")
    assert not (tmp_path / "n").exists()


async def test_borrowed_evidence_is_not_exported(state: Path, names: list[str], tmp_path: Path) -> None:
    """Status of one event that points to another's bundle exports nothing: the statement says whose evidence it is."""
    copy = tmp_path / "s"
    shutil.copytree(state, copy)
    victim, lender = names[:2]
    cluster = EmbeddedCluster.open(copy)
    theirs = await cluster.get(SecurityEvent, lender)
    assert theirs.status.attestation_bundle_ref is not None
    borrowed = msgspec.to_builtins(theirs.status.attestation_bundle_ref)
    await cluster.patch_status(SecurityEvent, victim, {"attestationBundleRef": borrowed})
    await cluster.close()
    # In a thread: a command line runs a loop of its own.
    done = await to_thread.run_sync(lambda: ugallu("export", victim, tmp_path / "kit", "--state", copy))
    assert done.returncode == 1
    assert "evidence of another event" in done.stderr
    assert not (tmp_path / "kit").exists()
    both = await to_thread.run_sync(lambda: ugallu("export", victim, lender, tmp_path / "kit", "--state", copy))
    assert both.returncode == 1
    assert f"not proven: SecurityEvent/{victim}: status names the evidence of another event" in both.stderr
    told = await to_thread.run_sync(lambda: ugallu("verify", tmp_path / "kit"))
    assert told.returncode == 1
    assert f"NOT PROVEN SecurityEvent/{victim}: status names the evidence of another event" in told.stdout
    assert f"ok         SecurityEvent/{lender}" in told.stdout


def test_a_folder_with_something_in_it_is_left_alone(state: Path, names: list[str], tmp_path: Path) -> None:
    """What lies there would be taken for part of the export."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine").write_text("x")
    done = ugallu("export", names[0], tmp_path / "kit", "--state", state)
    assert done.returncode == 2
    assert "there is something here already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["se-0", "DIR"], 1, "securityevents/se-0: not found"),
        (["DIR"], 2, "nothing says which events"),
        (["DIR", "--since", "yesterday"], 2, "--since: 'yesterday' is no time"),
        (["DIR", "--since", "2026-11-25T01:03:00"], 2, "a time without its zone"),
        (["se-0", "DIR", "--identity", "x"], 2, "pass both"),
    ],
)
def test_wrong_use_is_told(state: Path, tmp_path: Path, words: list[str], status: int, says: str) -> None:
    """Nothing is written, and the status says whose fault it is."""
    done = ugallu("export", *(str(tmp_path / "d") if word == "DIR" else word for word in words), "--state", state)
    assert (done.returncode, done.stdout) == (status, "")
    assert says in done.stderr
    assert not (tmp_path / "d").exists()
