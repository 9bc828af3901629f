"""The registry: metadata first, imports only of what is enabled."""

import subprocess
import sys

import pytest

from ugallu.errors import PermanentError
from ugallu.supervisor.registry import Installed, choose, installed


def test_metadata_names_what_is_installed_without_importing_it() -> None:
    """Listing operators imports none of them, and no plug-in package at all."""
    code = (
        "import sys; from ugallu.supervisor.registry import installed\n"
        "names = list(installed()); assert 'audit-detection' in names and 'attestor' in names, names\n"
        "heavy = [m for m in sys.modules if m.startswith(('ugallu_', 'ugallu.runtime.'))]; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metadata_says_name_target_and_distribution() -> None:
    """`ugallu operators` shows where an operator comes from."""
    line = installed()["attestor"]
    assert line == Installed("attestor", "ugallu.runtime.attestor.operator:Attestor", "ugallu")


def test_no_names_mean_all_but_those_left_out() -> None:
    """An empty --enable takes everything, minus what this run cannot use."""
    known = {name: Installed(name, "m:O", "d") for name in ("a", "b", "c")}
    assert [line.name for line in choose((), known)] == ["a", "b", "c"]
    assert [line.name for line in choose((), known, without=("b",))] == ["a", "c"]
    assert [line.name for line in choose(("b",), known, without=("b",))] == ["b"]


def test_an_unknown_name_lists_what_there_is() -> None:
    """A misspelt operator is refused with the names that would have worked."""
    known = {name: Installed(name, "m:O", "d") for name in ("attestor", "audit-detection")}
    with pytest.raises(PermanentError) as caught:
        choose(("audit-detektion",), known)
    assert "audit-detektion" in str(caught.value)
    assert "attestor, audit-detection" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no_such_module:Thing", "cannot be imported"),
        ("json:no_such_attribute", "cannot be imported"),
        ("json:JSONDecoder", "is no Operator"),
        ("tests_do_not_exist", "cannot be imported"),
    ],
)
def test_a_broken_plug_in_is_named(target: str, says: str) -> None:
    """What cannot be loaded is refused with the operator's name and the distribution to reinstall."""
    with pytest.raises(PermanentError, match=says) as caught:
        Installed("broken", target, "some-dist").load()
    assert "operator broken" in str(caught.value)
