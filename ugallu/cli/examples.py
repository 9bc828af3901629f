"""Where the examples are: beside the package in a source tree, inside it in a wheel."""

from pathlib import Path

from ugallu.errors import PermanentError

LOG = "audit.jsonl.gz"
RULES = "rules"


def examples() -> Path:
    """Return the folder that holds the recorded incident and the rule pack."""
    package = Path(__file__).parents[1]
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / RULES).is_dir():
            return folder
    raise PermanentError("the examples are not installed", where=str(package / "examples"), fix="reinstall ugallu")
