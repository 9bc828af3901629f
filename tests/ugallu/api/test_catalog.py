"""The catalogue is the contract's: 92 names, each with its class, severity and owner."""

from pathlib import Path

import yaml

from ugallu.api.catalog import CATALOGUE, Severity

SHEET = yaml.safe_load((Path(__file__).parents[2] / "data" / "api" / "api-fields.yaml").read_text())


def test_the_catalogue_equals_the_contract() -> None:
    """Not one name more or fewer, not one class or severity different."""
    ours = {name: (kind.event_class.value, kind.severity.value, kind.owner) for name, kind in CATALOGUE.items()}
    theirs = {
        name: (said["class"], said["severity"], said["emitter"]) for name, said in SHEET["securityEventTypes"].items()
    }
    assert ours == theirs
    assert len(ours) == SHEET["securityEventTypeCount"] == 92


def test_every_type_says_what_it_means() -> None:
    """The generated page of types has no empty line."""
    assert [name for name, kind in CATALOGUE.items() if not kind.meaning or kind.name != name] == []


def test_severities_are_ordered() -> None:
    """Critical outranks everything, info nothing."""
    assert [severity.value for severity in sorted(Severity, key=lambda s: -s.rank)] == [
        "critical",
        "high",
        "medium",
        "low",
        "info",
    ]
