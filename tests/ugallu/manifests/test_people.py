"""What people may do with the objects."""

from typing import Any

from ugallu.api.kinds import KINDS
from ugallu.manifests.people import cluster_roles
from ugallu.manifests.rbac import Rule


def roles() -> dict[str, dict[str, Any]]:
    return {role["metadata"]["name"]: dict(role) for role in cluster_roles(KINDS)}


def verbs(rules: list[Rule], resource: str) -> set[str]:
    return {verb for rule in rules if resource in rule["resources"] for verb in rule["verbs"]}


def test_everything_can_be_read_and_reading_is_aggregated() -> None:
    """Who may view a cluster sees what happened in it; nothing that writes is given away like that."""
    found = roles()
    for kind in KINDS:
        assert verbs(found["ugallu-view"]["rules"], kind.kind_info.plural) == {"get", "list", "watch"}
    aggregated = {
        name: [label for label in role["metadata"]["labels"] if "aggregate" in label] for name, role in found.items()
    }
    assert aggregated == {
        "ugallu-view": ["rbac.authorization.k8s.io/aggregate-to-view"],
        "ugallu-edit": [],
        "ugallu-responder": [],
    }


def test_people_write_configs_rules_and_runs_but_no_records() -> None:
    """No person writes events, bundles, responses, results or profiles."""
    edit = roles()["ugallu-edit"]["rules"]
    assert sum(bool(verbs(edit, kind.kind_info.plural)) for kind in KINDS) == 15
    for plural in ("securityevents", "eventresponses", "attestationbundles", "backupverifyresults",
                   "compliancescanresults", "confidentialattestationresults", "seccomptrainingprofiles"):  # fmt: skip
        assert verbs(edit, plural) == set()
    assert "create" in verbs(edit, "sigmarules")
    assert "create" in verbs(edit, "backupverifyruns")


def test_a_responder_acknowledges_and_creates_nothing() -> None:
    """The acknowledgement, which events alone have, and annotations of events and responses."""
    rules = roles()["ugallu-responder"]["rules"]
    assert verbs(rules, "securityevents/status") == {"get", "patch"}
    assert verbs(rules, "eventresponses/status") == set()
    assert verbs(rules, "securityevents") == {"get", "list", "watch", "patch"}
    assert not {verb for rule in rules for verb in rule["verbs"]} & {"create", "delete", "update", "*"}
