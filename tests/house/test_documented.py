"""Every module says what it is for, and every public thing in it what it means."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path.relative_to(ROOT)
    for top in ("ugallu", "plugins")
    for path in (ROOT / top).rglob("*.py")
    if "examples" not in path.parts
)


def undocumented(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (
                    f"{node.name}.{part.name}"
                    for part in node.body
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
                    and not part.name.startswith("_")
                    and not ast.get_docstring(part)
                )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_and_its_public_names_are_documented(path: Path) -> None:
    """A reader finds one sentence wherever they land."""
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), f"{path} does not say what it is for"
    if "# ruff: noqa: D102" not in source:  # a file that explains why its helpers need no sentence each
        assert list(undocumented(tree)) == []
