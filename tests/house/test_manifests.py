"""What is generated is current, and is all there is."""

from pathlib import Path

from ugallu.manifests.document import HEADER
from ugallu.manifests.tree import compare, tree
from ugallu.supervisor.registry import installed

ROOT = Path(__file__).parents[2] / "manifests"


def files() -> dict[str, str]:
    return tree([line.load() for line in installed().values()])


def test_the_manifests_are_current() -> None:
    """`ugallu manifests` would change nothing."""
    assert list(compare(files(), ROOT)) == []


def test_nobody_writes_manifests_by_hand() -> None:
    """Every file in the tree says what generates it."""
    assert [path for path in ROOT.rglob("*") if path.is_file() and not path.read_text().startswith(HEADER)] == []


def test_the_same_code_gives_the_same_bytes() -> None:
    """No order of a set or a dictionary shows through."""
    assert files() == files()
