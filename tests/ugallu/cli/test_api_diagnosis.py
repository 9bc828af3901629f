"""What the doctor says of kinds and policies: each way to switch a guard off is named, and no line mends more than that."""

import copy
from typing import Any

import pytest

from ugallu.api.crd import crd
from ugallu.api.kinds import KINDS
from ugallu.api.meta import Metadata
from ugallu.api.policies import PolicyValues, policies
from ugallu.cli.api_diagnosis import AdmissionBinding, AdmissionPolicy, Definition, of_kinds, of_policies
from ugallu.cli.diagnosis import Finding
from ugallu.manifests.policies import VALUES
from ugallu.manifests.tree import OVERLAYS, values_of

Specs = dict[str, dict[str, Any]]


def shipped(values: PolicyValues | None = None) -> tuple[Specs, Specs]:
    """The specs of policies and of bindings, by name."""
    pairs = [policy.documents() for policy in policies(values)]
    first, second = (
        {one["metadata"]["name"]: copy.deepcopy(one["spec"]) for one in part} for part in zip(*pairs, strict=True)
    )
    return first, second


def examined(found: Specs, bound: Specs) -> dict[str, Finding]:
    return {
        one.check: one
        for one in of_policies(
            [AdmissionPolicy(metadata=Metadata(name=name), spec=spec) for name, spec in found.items()],
            [AdmissionBinding(metadata=Metadata(name=name), spec=spec) for name, spec in bound.items()],
        )
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_ours(overlay: str) -> None:
    """They differ in values alone; the doctor says whose they are."""
    found = examined(*shipped(values_of(overlay)))
    assert {one.verdict for one in found.values()} == {"ok"}
    assert found["policy values"].detail == f"those of manifests/overlays/{overlay}"


def logic() -> list[tuple[str, int]]:
    first, _ = shipped()
    return [
        (name, index)
        for name, spec in first.items()
        for index, one in enumerate(spec.get("variables", ()))
        if one["name"] not in VALUES
    ]


@pytest.mark.parametrize(("name", "index"), logic())
def test_a_variable_that_decides_is_compared(name: str, index: int) -> None:
    """Only the values are the cluster's choice: `isTTL` or `same` set to true would let everybody through."""
    found, bound = shipped()
    found[name]["variables"][index]["expression"] = "true"
    told = examined(found, bound)["policies"]
    assert told.verdict == "fail"
    assert told.detail == f"1 of 17 are not ours: {name} (variables[{index}].expression)"
    assert told.fix == f"kubectl replace -f manifests/policies/{name.removeprefix('ugallu.')}.yaml"


def test_what_somebody_added_is_named() -> None:
    """A condition that is never true, a selector that nothing matches: the rest is as it was, and guards nothing."""
    found, bound = shipped()
    found["ugallu.spec-immutable"]["matchConditions"] = [{"name": "never", "expression": "false"}]
    bound["ugallu.type-validation"]["matchResources"]["objectSelector"] = {"matchLabels": {"a": "b"}}
    told = examined(found, bound)
    assert told["policies"].detail == "1 of 17 are not ours: ugallu.spec-immutable (matchConditions)"
    assert told["policies"].fix == "kubectl replace -f manifests/policies/spec-immutable.yaml"
    assert "ugallu.type-validation (matchResources.objectSelector.matchLabels)" in told["policy bindings"].detail
    assert told["policy bindings"].fix == "kubectl replace -f manifests/policies/type-validation.yaml"


def test_what_mends_keeps_the_values_of_the_installation() -> None:
    """Files hold those of standard: another installation takes its policies, and them alone, from where its values are."""
    for values, folder in (
        (values_of("local"), "manifests/overlays/local"),
        (PolicyValues(ack_authorized=("alice",), attestor="system:serviceaccount:ugallu-system:mine"), "FOLDER"),
    ):
        found, bound = shipped(values)
        found["ugallu.spec-immutable"]["failurePolicy"] = "Ignore"
        del found["ugallu.honeypot-config-spec"]
        told = examined(found, bound)["policies"]
        assert told.detail.startswith("1 of 17 are missing: ugallu.honeypot-config-spec; 1 of 17 are not ours: ")
        first, second = told.fix.partition("  #")[0].split(" && ")
        kustomize = f"kubectl kustomize {folder} | kubectl"
        chosen = "-l app.kubernetes.io/component=admission -f -"
        assert first == f"{kustomize} apply --server-side --force-conflicts {chosen}"
        assert second == f"{kustomize} create --dry-run=client -o yaml {chosen} | kubectl replace -f -"
    # What has no value of its own is the same everywhere.
    found, bound = shipped(values_of("local"))
    del bound["ugallu.honeypot-config-spec"]
    mend = "kubectl apply --server-side -f manifests/policies/honeypot-config-spec.yaml"
    assert examined(found, bound)["policy bindings"].fix == mend


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("['alice', 'bob']", "ok"),
        ('["alice"]', "ok"),
        ("[]", "ok"),
        ("[request.userInfo.username]", "fail"),
        ("'a' == 'a' ? [request.userInfo.username] : ['b']", "fail"),
        ("['a', 'b'] + request.userInfo.groups", "fail"),
    ],
)
def test_a_value_says_all_of_itself(expression: str, verdict: str) -> None:
    """A value that is computed from the request may let everybody through."""
    found, bound = shipped()
    (place,) = [one for one in found["ugallu.ack-restricted"]["variables"] if one["name"] == "ackAuthorizedSAs"]
    place["expression"] = expression
    told = examined(found, bound)
    assert (told["policy values"].verdict, told["policies"].verdict) == (verdict, "ok")


def test_values_that_were_half_reset_are_named() -> None:
    """Some policies of `local` replaced by the files of standard: two attestors, and one of them may not work."""
    found, bound = shipped(values_of("local"))
    found["ugallu.spec-immutable"] = shipped()[0]["ugallu.spec-immutable"]
    told = examined(found, bound)["policy values"]
    assert told.verdict == "fail"
    assert told.detail.startswith("not the same in each policy: attestorSA: ")


def definitions() -> list[Definition]:
    documents = [copy.deepcopy(crd(kind)) for kind in KINDS]
    return [
        Definition(
            metadata=Metadata(name=one["metadata"]["name"]), spec={**one["spec"], "conversion": {"strategy": "None"}}
        )
        for one in documents
    ]


def test_kinds_are_compared_whole() -> None:
    """One missing, one whose status went, one that prunes nothing any more: each with its own file."""
    first, second, third, *rest = definitions()
    second.spec["versions"][0]["subresources"] = {}
    schema = third.spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    schema["x-kubernetes-preserve-unknown-fields"] = True
    (told,) = of_kinds([second, third, *rest])
    assert told.verdict == "fail"
    assert f"1 of 22 are missing: {first.metadata.name}; 2 of 22 are not ours: " in told.detail
    names = [one.spec["names"]["plural"] for one in (first, second, third)]
    assert told.fix.split(" && ") == [
        f"kubectl apply --server-side -f manifests/crds/{names[0]}.yaml",
        "kubectl replace " + " ".join(f"-f manifests/crds/{name}.yaml" for name in sorted(names[1:])),
    ]
    (well,) = of_kinds(definitions())
    assert well.verdict == "ok"


def test_an_older_server_keeps_no_selectable_fields() -> None:
    """1.30 leaves them out of what it stores: no defect of the installation."""
    old = definitions()
    for one in old:
        one.spec["versions"][0].pop("selectableFields", None)
    assert [one.verdict for one in of_kinds(old, selectable=False)] == ["ok"]
    assert [one.verdict for one in of_kinds(old)] == ["fail"]


def test_where_nothing_is_there_the_line_installs() -> None:
    """Nothing can be reset where nothing is; a kind that is refused says so."""
    (told,) = of_kinds([])
    assert told.fix.startswith("kubectl apply --server-side -k manifests/overlays/standard")
    bad = definitions()
    bad[0].status.update(conditions=[{"type": "Established", "status": "False", "message": "taken"}])
    _, refused = of_kinds(bad)
    assert refused.fix == f"kubectl describe crd {bad[0].metadata.name}"
