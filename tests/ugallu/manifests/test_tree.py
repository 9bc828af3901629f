"""The tree on disk: what is compared, what is written, what is left alone."""

from pathlib import Path

import pytest
import yaml

from ugallu.cli.main import main
from ugallu.manifests.document import HEADER
from ugallu.manifests.kustomize import changes
from ugallu.manifests.tree import compare, tree, write
from ugallu.supervisor.registry import installed


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return tree([line.load() for line in installed().values()])


def test_what_differs_is_named_and_mended(files: dict[str, str], tmp_path: Path) -> None:
    """Missing, changed and stale files are told apart; writing leaves nothing to tell."""
    assert {difference.how for difference in write(files, tmp_path)} == {"missing"}
    assert write(files, tmp_path) == []
    changed, gone = "base/namespaces.yaml", "rbac/ugallu-view.yaml"
    (tmp_path / changed).write_text(HEADER + "kind: Namespace\n")
    (tmp_path / gone).unlink()
    old = tmp_path / "components" / "retired" / "workload.yaml"
    old.parent.mkdir()
    old.write_text(HEADER)
    expected = {(changed, "differs"), (gone, "missing"), ("components/retired/workload.yaml", "stale")}
    assert set(compare(files, tmp_path)) == expected
    assert set(write(files, tmp_path)) == expected
    assert list(compare(files, tmp_path)) == []
    assert not old.parent.exists()


def test_what_is_not_ours_is_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    """A user may keep an overlay of their own in the tree."""
    mine = tmp_path / "overlays" / "mine" / "kustomization.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("resources: [../standard]\n")
    write(files, tmp_path)
    assert list(compare(files, tmp_path)) == []
    assert mine.exists()


def test_the_command_checks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` writes nothing, names each file, and ends with 1 until it is current."""
    folder = tmp_path / "out"
    assert main(["manifests", str(folder), "--check"]) == 1
    assert f"{folder}/base/namespaces.yaml: missing" in capsys.readouterr().out.splitlines()
    assert not folder.exists()
    assert main(["manifests", str(folder)]) == 0
    assert f"{folder}/base/namespaces.yaml: written" in capsys.readouterr().out.splitlines()
    assert main(["manifests", str(folder), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_a_patch_replaces_the_spec_that_differs_and_no_other() -> None:
    """An overlay says what it changes, and nothing else."""
    document = {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "namespace": "n"}, "spec": {"x": 1}}
    other = {"apiVersion": "v1", "kind": "K", "metadata": {"name": "b"}, "spec": {"x": 1}}
    assert changes([document, other], [other, document]) == []
    (patch,) = changes([document, other], [{**document, "spec": {"x": 2}}, other])
    assert patch["target"] == {"group": "g", "version": "v1", "kind": "K", "name": "a", "namespace": "n"}
    assert patch["patch"] == "- op: replace\n  path: /spec\n  value:\n    x: 2\n"


def test_roles_may_stand_side_by_side(files: dict[str, str]) -> None:
    """Whoever installs all of them in one Kustomization installs each object once: no two components have one in common."""
    places: dict[tuple[str, str, str], str] = {}
    for path, text in files.items():
        component = path.split("/")[1]
        if path.startswith("components/") and not component.endswith("-ha") and component != "local":
            for document in yaml.safe_load_all(text):
                if document and "metadata" in document:
                    metadata = document["metadata"]
                    key = (document["kind"], metadata.get("namespace", ""), metadata["name"])
                    assert places.setdefault(key, component) == component, (key, component)
