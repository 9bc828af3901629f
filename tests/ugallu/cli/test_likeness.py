"""What a cluster holds is ours only if it says the same and nothing more."""

from typing import Any

import pytest

from ugallu.cli.likeness import KIND_DEFAULTS, POLICY_DEFAULTS, differences

OURS: dict[str, Any] = {
    "matchConstraints": {"resourceRules": [{"resources": ["pods"]}]},
    "validations": [{"message": "a"}],
}


@pytest.mark.parametrize(
    ("theirs", "path"),
    [
        ({**OURS, "matchConditions": [{"expression": "false"}]}, "matchConditions"),
        (
            {**OURS, "matchConstraints": {**OURS["matchConstraints"], "objectSelector": {"matchLabels": {"a": "b"}}}},
            "matchConstraints.objectSelector.matchLabels",
        ),
        (
            {**OURS, "matchConstraints": {"resourceRules": [{"resources": ["pods"], "scope": "Namespaced"}]}},
            "matchConstraints.resourceRules[0].scope",
        ),
        ({**OURS, "validations": [{"message": "b"}]}, "validations[0].message"),
        ({**OURS, "validations": []}, "validations"),
        ({"validations": OURS["validations"]}, "matchConstraints"),
    ],
)
def test_what_is_added_taken_away_or_changed_is_named(theirs: dict[str, Any], path: str) -> None:
    """An addition may switch off what ours says, so it differs like a change."""
    assert list(differences(OURS, theirs, POLICY_DEFAULTS)) == [path]


def test_what_a_server_writes_by_itself_is_no_difference() -> None:
    """The defaults of both APIs, as a server of 1.34 wrote them."""
    rule = {"resources": ["pods"], "scope": "*"}
    match = {"resourceRules": [rule], "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
    assert list(differences(OURS, {**OURS, "matchConstraints": match}, POLICY_DEFAULTS)) == []
    assert (
        list(differences({"scope": "Cluster"}, {"scope": "Cluster", "conversion": {"strategy": "None"}}, KIND_DEFAULTS))
        == []
    )
    webhook = {"scope": "Cluster", "conversion": {"strategy": "Webhook"}}
    assert list(differences({"scope": "Cluster"}, webhook, KIND_DEFAULTS)) == ["conversion.strategy"]
