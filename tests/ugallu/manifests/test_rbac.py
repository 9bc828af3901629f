"""Rights to RBAC: nothing lost, nothing added, nothing that nobody may ask for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.platform import AttestorConfig, TTLConfig, WORMConfig
from ugallu.errors import PermanentError
from ugallu.manifests.rbac import Rule, check, lease, roles, rules
from ugallu.operator.contract import Grant
from ugallu.operator.rights import rights
from ugallu.supervisor.registry import installed

WORD = st.sampled_from("abc")
GRANTS = st.lists(
    st.builds(
        Grant,
        st.sampled_from(("", "g")),
        st.lists(WORD, min_size=1, max_size=2).map(tuple),
        st.lists(st.sampled_from(("get", "list", "patch")), min_size=1, max_size=3).map(tuple),
        names=st.lists(WORD, max_size=2).map(tuple),
    ),
    max_size=6,
)


def allowed(given_rules: list[Rule]) -> set[tuple[str, str, str, str]]:
    """Every (group, resource, name, verb) that rules allow; an empty name is any."""
    return {
        (group, resource, name, verb)
        for rule in given_rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


@given(GRANTS)
@settings(max_examples=200)
def test_rules_allow_what_is_granted_and_no_more(grants: list[Grant]) -> None:
    """Merging changes how rights are written, never what they are."""
    asked = {
        (grant.group, resource, name, verb)
        for grant in grants
        for resource in grant.resources
        for name in (grant.names or ("",))
        for verb in grant.verbs
    }
    got = allowed(rules(grants))
    assert got <= asked
    assert {right for right in asked if right not in got} <= {
        right for right in asked if (right[0], right[1], "", right[3]) in got
    }


@given(GRANTS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_declarations_does_not_show(grants: list[Grant], dice: st.DrawFn) -> None:
    """Moving a line in an operator changes no file."""
    shuffled = list(grants)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rules(shuffled) == rules(grants)


def test_one_resource_has_one_rule_for_each_set_of_verbs() -> None:
    """A reader of a role sees each right once."""
    written = rules(
        [
            Grant("g", ("things",), ("create", "get")),
            Grant("g", ("things",), ("get", "list", "watch")),
            Grant("g", ("things",), ("get", "patch"), names=("mine",)),
            Grant("g", ("others",), ("watch", "list", "get", "create")),
        ]
    )
    assert written == [
        {"apiGroups": ["g"], "resources": ["others", "things"], "verbs": ["create", "get", "list", "watch"]},
        {"apiGroups": ["g"], "resources": ["things"], "resourceNames": ["mine"], "verbs": ["patch"]},
    ]


@pytest.mark.parametrize(
    ("grant", "what"),
    [
        (Grant("*", ("pods",), ("get",)), "a wildcard"),
        (Grant("", ("*",), ("get",)), "a wildcard"),
        (Grant("", ("pods/*",), ("get",)), "a wildcard"),
        (Grant("", ("pods",), ("*",)), "a wildcard"),
        (Grant("", ("pods",), ("get",), names=("*",)), "a wildcard"),
        (Grant("", ("secrets",), ("get",)), "reads Secrets"),
        (Grant("", ("pods", "secrets"), ("list",), namespace="here"), "reads Secrets"),
        (Grant("", ("secrets",), ("get",), names=("mine",)), "reads Secrets"),
        (Grant("", ("secrets",), ("patch",), namespace="here"), "reads Secrets"),
        (Grant("", ("secrets",), ("deletecollection",)), "reads Secrets"),
        (Grant("g", ("things",), ("create",), names=("mine",)), "cannot be limited to names"),
        (Grant("g", (), ("get",)), "a grant of nothing"),
        (Grant("g", ("things",), ()), "a grant of nothing"),
    ],
)
def test_what_nobody_may_ask_for_is_refused(grant: Grant, what: str) -> None:
    """A role with a wildcard, or one that reads Secrets it cannot name, cannot be generated."""
    with pytest.raises(PermanentError, match=what):
        rules([grant])


@pytest.mark.parametrize(
    "grant",
    [
        Grant("", ("secrets",), ("get",), names=("mine",), namespace="here"),
        Grant("", ("secrets",), ("create", "delete")),
        Grant("g", ("secrets",), ("get", "list")),
    ],
)
def test_what_may_be_asked_for(grant: Grant) -> None:
    """A Secret by its name, Secrets that are planted and never read, and what others call secrets."""
    check(grant)


def test_namespaced_rights_become_roles_of_that_namespace() -> None:
    """What is granted in a namespace is granted nowhere else."""
    grants = [Grant("", ("pods",), ("list",)), Grant("", ("configmaps",), ("get",), names=("x",), namespace="there")]
    made = list(roles(grants, name="r", component="c", subject="s", home="h"))
    assert [(d["kind"], d["metadata"].get("namespace")) for d in made] == [
        ("ClusterRole", None),
        ("ClusterRoleBinding", None),
        ("Role", "there"),
        ("RoleBinding", "there"),
    ]
    assert made[0]["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    assert {subject["namespace"] for d in made for subject in d.get("subjects", ())} == {"h"}


def test_a_config_that_lies_in_our_namespace_is_read_there_and_nowhere_else() -> None:
    """No operator may see, or speak on, a config of somebody else's namespace."""
    homes = {kind.kind_info.plural for kind in (AttestorConfig, TTLConfig, WORMConfig)}
    seen = set()
    for line in installed().values():
        for grant in rights(line.load()):
            if there := {resource.partition("/")[0] for resource in grant.resources} & homes:
                assert grant.namespace == "ugallu-system", (line.name, grant)
                seen |= there
    assert seen == homes


def test_no_operator_makes_leases() -> None:
    """RBAC cannot say which Lease may be created, so ours are shipped."""
    for line in installed().values():
        for grant in rights(line.load()):
            check(grant)
            assert not ("leases" in grant.resources and "create" in grant.verbs)
    assert "spec" not in lease("l", "n", "c")
