"""What the image installs is what the package asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {"requirements.lock": ("project", "dependencies"), "requirements-build.lock": ("build-system", "requires")}


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_current(name: str) -> None:
    """Every dependency is pinned to a version that pyproject.toml allows, by hash; the lock's head says how to renew it."""
    text = (ROOT / name).read_text()
    table, key = LOCKS[name]
    asked = [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())[table][key]]
    entries = re.findall(
        r"^([\w.-]+)==([\w.!+]+)([^\n]*\\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    pinned = {canonicalize_name(package): version for package, version, _ in entries}
    assert len(entries) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)), "a package without a hash"
    for requirement in asked:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {name}; its first lines say how to renew it"
        assert version in requirement.specifier, f"{requirement} is not what {name} has: {version}"
