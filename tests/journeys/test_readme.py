"""What the README shows is what happens: its detector runs, its rule loads, its two commands are the real ones."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_detector_of_the_readme_finds() -> None:
    """The plug-in printed there is complete: built with its default config, it finds what it says."""
    from ugallu.api.audit import AuditRecord

    module = ModuleType("readme")
    [code] = blocks("python")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    operator: Any = module.BorrowedIdentity()
    [detector] = operator.build(operator.config(), None).detectors
    record = msgspec.json.decode(b'{"verb":"get","impersonatedUser":{"username":"root"}}', type=AuditRecord)
    [found] = detector.inspect(record)
    assert (found.type.name, found.key) == ("ImpersonationUsed", "root")
    assert not list(detector.inspect(AuditRecord(verb="get")))


def test_rule_of_the_readme_loads(tmp_path: Path) -> None:
    """The SigmaRule printed there compiles."""
    [rule] = blocks("yaml")
    (tmp_path / "rule.yaml").write_text(rule)
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "rules", "list", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "port-forward-by-workload" in done.stdout


def test_ci_runs_the_command_of_the_readme() -> None:
    """`.ci/run` and CONTRIBUTING give the README's test command, letter by letter."""
    second = blocks("sh")[1].strip()
    assert second in (ROOT / ".ci" / "run").read_text()
    assert second in (ROOT / "CONTRIBUTING.md").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    """Every relative link names a file in the tree."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.real
def test_first_command_of_the_readme_on_a_clean_clone(tmp_path: Path) -> None:
    """From a clean copy and an empty environment to "verified": install from an index, play, verify."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    first = blocks("sh")[0].strip()
    done = subprocess.run(["sh", "-c", first], cwd=clone, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert "books     close" in done.stdout
    assert (clone / "ugallu-report.html").stat().st_size > 50_000
    # What was installed is the wheel: it finds its examples without the source tree.
    elsewhere = [str(clone / ".venv" / "bin" / "ugallu"), "rules", "test"]
    pack = next((clone / ".venv").glob("lib/python3*/site-packages/ugallu/examples/rules"))
    done = subprocess.run(
        [*elsewhere, str(pack)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
