"""The default rules, as data: where they lie, and which version of them this is."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ugallu.sdk import SigmaRule

VERSION: Final = "2"
"""Of the pack as a whole; raised with every change of what a rule matches or says."""
NAME: Final = "pack"
"""What stands for these rules where paths are expected."""
FOLDER: Final = Path(__file__).parent

LABELS: Final = {"app.kubernetes.io/part-of": "ugallu", "ugallu.io/rule-pack": "default"}
LABEL_VERSION: Final = "ugallu.io/rule-pack-version"
FALSE_POSITIVES: Final = "ugallu.io/false-positives"
HOW_TO_EXCEPT: Final = "ugallu.io/how-to-except"
BLIND_SPOTS: Final = "ugallu.io/blind-spots"
KNOWLEDGE: Final = (FALSE_POSITIVES, HOW_TO_EXCEPT, BLIND_SPOTS)
"""Annotations that every rule has: when it is wrong, how to say so, what it cannot see."""


def is_meant(path: str | Path) -> bool:
    """Whether a path names the pack: its name, unless there is such a file."""
    return str(path) == NAME and not Path(path).exists()


def located(paths: Iterable[str | Path]) -> list[Path]:
    """Return the paths, with that of the pack in the place of its name."""
    return [FOLDER if is_meant(path) else Path(path) for path in paths]


def rules() -> Iterator[SigmaRule]:
    """Yield every rule of the pack with the labels that say it is one, in the order of the files."""
    from ugallu_audit_detection.files import objects

    for rule in objects([FOLDER]):
        yield rule.with_metadata(labels={**LABELS, LABEL_VERSION: VERSION, **rule.metadata.labels})
