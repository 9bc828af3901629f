"""The generated page of the API says what the schemas say."""

from ugallu.api.catalog import CATALOGUE
from ugallu.api.kinds import KINDS
from ugallu.api.reference import reference

LINES = reference().splitlines()


def test_every_kind_and_type_has_its_place() -> None:
    """A reader finds each kind by its heading and each event type by its row."""
    assert [line for line in LINES if line.startswith("## ")] == [
        *(f"## {kind.__name__}" for kind in KINDS),
        f"## Event types ({len(CATALOGUE)})",
    ]
    rows = {line.split("`")[1] for line in LINES if line.startswith("| `")}
    assert rows >= CATALOGUE.keys()


def test_a_row_has_type_default_and_meaning() -> None:
    """Required fields are bold, lists and enums are spelt out, and every row has as many cells as its head."""
    assert (
        "| **`spec.emit.severity`** | `critical` \\| `high` \\| `medium` \\| `low` \\| `info` |  | Severity to emit. |"
        in LINES
    )
    assert (
        "| `spec.riskThreshold` | integer, 0 to 100 | `60` | Score at or above which the HighRisk event fires. |"
        in LINES
    )
    assert any(line.startswith("| `spec.snapshot.maxBytes` | quantity | `2Gi` |") for line in LINES)
    assert any(line.startswith("| `spec.subject.pod.containers[].envNames` | list of string |") for line in LINES)
    cells = [line.replace("\\|", "").count("|") for line in LINES if line.startswith("|")]
    assert set(cells) == {5, 6}
