"""Who may talk to whom."""

import pytest

from ugallu.manifests.network import EVIDENCE, of_evidence, of_namespaces, of_role
from ugallu.manifests.roles import LOCAL, roles
from ugallu.supervisor.registry import installed


def test_both_namespaces_start_from_nothing() -> None:
    """Whatever is not opened is closed, both ways, for every Pod."""
    for strict in (False, True):
        made = list(of_namespaces(strict=strict))
        closed = [d for d in made if d["metadata"]["name"] == "ugallu-default-deny"]
        assert {d["metadata"]["namespace"] for d in closed} == {"ugallu-system", "ugallu-system-privileged"}
        assert all(d["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for d in closed)


def test_strict_leaves_no_way_to_an_unknown_address() -> None:
    """Each rule of the hardened overlay says to or from whom."""
    for document in of_namespaces(strict=True):
        spec = document["spec"]
        assert all("to" in rule for rule in spec.get("egress", []))
        assert all(peer != {"namespaceSelector": {}} for rule in spec.get("ingress", []) for peer in rule["from"])


def test_services_that_hold_evidence_are_reached_by_whoever_seals_and_collects() -> None:
    """OpenBao, S3 of any make and public Sigstore, at any address but the node's own, for Pods that exist; for no others."""
    spec = of_evidence()["spec"]
    (chosen,) = spec["podSelector"]["matchExpressions"]
    there = {role.name for role in roles([line.load() for line in installed().values()])} | {LOCAL}
    assert set(chosen["values"]) == {*EVIDENCE} <= there
    (rule,) = spec["egress"]
    assert {443, 8200, 8333, 9000} == {port["port"] for port in rule["ports"]}
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["0.0.0.0/0", "::/0"]
    assert all(peer["ipBlock"]["except"] for peer in rule["to"])
    assert spec["policyTypes"] == ["Egress"]


def test_a_role_opens_what_it_serves_for_its_own_pods() -> None:
    """The webhook's port is open on the Pods of the webhook, and on no others."""
    opened = {role.name: list(of_role(role)) for role in roles([line.load() for line in installed().values()])}
    policy, *_ = opened["audit-webhook"]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "audit-webhook"
    assert policy["spec"]["ingress"][0] == {"ports": [{"protocol": "TCP", "port": 8443}]}
    assert opened["attestor"] == []


@pytest.mark.parametrize("name", ["audit-webhook", "audit-file"])
def test_the_bus_is_open_to_our_own_pods(name: str) -> None:
    """Pods of ours, wherever they run, may call it, and it lets in nobody else."""
    (role,) = [role for role in roles([line.load() for line in installed().values()]) if role.name == name]
    policy, *readers = of_role(role)
    (rule,) = [rule for rule in policy["spec"]["ingress"] if {"protocol": "TCP", "port": 8444} in rule["ports"]]
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == 2 * [{"app.kubernetes.io/name": "ugallu"}]
    assert {each["metadata"]["namespace"] for each in readers} == {"ugallu-system", "ugallu-system-privileged"}
    for each in readers:
        (out,) = each["spec"]["egress"]
        assert out["ports"] == [{"protocol": "TCP", "port": 8444}]
        assert out["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == name


def test_what_ingest_calls_is_open_to_it_alone() -> None:
    """NATS, wherever it is; the bus it reads is open to every Pod of ours."""
    (role,) = [role for role in roles([line.load() for line in installed().values()]) if role.name == "ingest"]
    (policy,) = of_role(role)
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "ingest"
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP", "port": 4222}]}]
    assert policy["spec"]["policyTypes"] == ["Egress"]
