"""The catalogue is the contract's: 92 names, each with its class, severity and owner."""

from ugallu.api.catalog import CATALOGUE, Severity
from ugallu.testing.api_contract import contract


def test_the_catalogue_equals_the_contract() -> None:
    """Not one name more or fewer, not one class or severity different."""
    ours = {name: [kind.event_class.value, kind.severity.value, kind.owner] for name, kind in CATALOGUE.items()}
    assert ours == contract().document["types"]
    assert len(ours) == 92


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
