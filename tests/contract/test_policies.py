"""The embedded cluster judges as the policies' battery says, and the battery notices every rule that goes missing."""

from functools import cache

import msgspec
import pytest

from ugallu.api.kinds import KINDS
from ugallu.api.meta import Kind, Resource
from ugallu.api.policies import Policy, policies
from ugallu.api.policies.expressions import ALIVE
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.embedded.policies import Policies, Request, UnjudgedError, User
from ugallu.cluster.embedded.store import Store
from ugallu.cluster.port import ForbiddenError, InvalidError
from ugallu.testing.contracts.policies import BEFORE, CASES, VALUES, Case, Document, merge_patch

POLICIES = policies(VALUES)
REFUSALS = (ForbiddenError, InvalidError)


@cache
def opened(kind: Kind) -> type[Resource]:
    """Return a Struct that keeps whatever an object of this kind has."""
    fields: list[tuple[str, object, object]] = [("spec", dict[str, object], {}), ("status", dict[str, object], {})]
    return msgspec.defstruct(  # type: ignore[return-value]
        f"Open{kind.name}",
        fields,
        bases=(Resource,),
        namespace={"kind_info": kind},
        frozen=True,
        kw_only=True,
        omit_defaults=True,
    )


def resource(kind: Kind, document: Document) -> Resource:
    return msgspec.convert(document, opened(kind))


async def prepared(case: Case) -> EmbeddedCluster:
    """Return a cluster as the case finds it: what is stored came before the policies."""
    store = Store(None, history=1000)
    before = EmbeddedCluster(store, policies=())
    for kind, document in BEFORE:
        await before.create(resource(kind, document))
    if case.before is not None:
        made = await before.create(resource(case.kind, case.before))
        if status := case.before.get("status"):
            await before.patch_status(type(made), case.name, status, made.metadata.namespace)
    return EmbeddedCluster(store, policies=POLICIES)


async def write(cluster: EmbeddedCluster, case: Case) -> None:
    """Do what the case asks, as its user."""
    kind, acting = opened(case.kind), cluster.acting(case.user)
    namespace = "default" if case.kind.namespaced else ""
    if case.before is None:
        assert case.after is not None
        await acting.create(resource(case.kind, case.after))
    elif case.after is None:
        await acting.delete(kind, case.name, namespace)
    elif case.subresource:
        patch = merge_patch(case.before, case.after)
        await acting.patch_status(kind, case.name, patch["status"], namespace)
    else:
        await acting.patch(kind, case.name, merge_patch(case.before, case.after), namespace)


def judged(case: Case, rules: tuple[Policy, ...] | Policies) -> str:
    """Return what policies alone say to a case, empty when they accept."""
    judge = rules if isinstance(rules, Policies) else Policies(rules)
    known = {f"{kind.group}/{kind.name}": document for kind, document in BEFORE}
    request = Request(
        case.verb,
        case.kind,
        case.subresource,
        User(case.user),
        "default" if case.kind.namespaced else "",
        case.name,
        case.after,
        case.before,
    )
    try:
        judge.judge(request, lambda key, _name: known.get(key))
    except UnjudgedError as error:
        return f"no verdict: {error}"
    except REFUSALS as error:
        return str(error)
    return ""


def of_metadata(case: Case) -> bool:
    """Whether a write to the status touches metadata too, which the port cannot say."""
    return bool(case.subresource) and (case.before or {})["metadata"] != (case.after or {})["metadata"]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_an_object_gets_the_verdict(case: Case) -> None:
    """Stored, or refused with the words of the rule."""
    if of_metadata(case):
        assert case.refused.lower() in judged(case, POLICIES).lower()
        assert bool(case.refused) == bool(judged(case, POLICIES))
        return
    cluster = await prepared(case)
    if case.refused:
        with pytest.raises(REFUSALS) as refusal:
            await write(cluster, case)
        assert case.refused.lower() in str(refusal.value).lower()
        if not case.by_schema:
            assert f"policy ugallu.{case.policy}:" in str(refusal.value)
        assert not isinstance(refusal.value, UnjudgedError)
    else:
        await write(cluster, case)
    await cluster.close()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_rule_of_a_policy_decides_a_case(policy: Policy) -> None:
    """Without any one of its rules the policy accepts something that the battery wants refused."""
    cases = [case for case in CASES if f"ugallu.{case.policy}" == policy.name]
    assert {bool(case.refused) for case in cases} == {True, False}
    whole = Policies((policy,))
    assert [case.says for case in cases if bool(judged(case, whole)) != bool(case.refused)] == []
    for number, rule in enumerate(policy.validations):
        rest = policy.validations[:number] + policy.validations[number + 1 :]
        without = Policies((msgspec.structs.replace(policy, validations=rest or (ALWAYS,)),))
        assert any(case.refused and not judged(case, without) for case in cases), f"nothing needs: {rule.message}"


def dying(policy: Policy) -> list[Case]:
    """Return what the policy would refuse, as changes of objects that are on their way out."""
    mark = {"deletionTimestamp": "2026-01-01T12:00:00Z", "finalizers": ["ugallu.io/hold"]}
    return [
        msgspec.structs.replace(case, old={"metadata": mark}, new={**case.new, "metadata": mark})
        for case in CASES
        if case.refused and case.new is not None and case.old is None and f"ugallu.{case.policy}" == policy.name
    ]


ALWAYS = msgspec.structs.replace(POLICIES[0].validations[0], expression="true")


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy.conditions], ids=lambda policy: policy.name)
def test_every_condition_of_a_policy_decides_a_case(policy: Policy) -> None:
    """Without any one of its conditions the policy refuses something that the battery wants accepted."""
    cases = [case for case in CASES if f"ugallu.{case.policy}" == policy.name and not case.refused]
    if ALIVE in policy.conditions:
        cases += dying(policy)
        assert [case.says for case in cases if judged(case, (policy,))] == []
    for number, condition in enumerate(policy.conditions):
        rest = policy.conditions[:number] + policy.conditions[number + 1 :]
        without = Policies((msgspec.structs.replace(policy, conditions=rest),))
        assert any(judged(case, without) for case in cases), f"nothing needs: {condition.name}"


def test_every_kind_of_ours_that_a_policy_names_exists() -> None:
    """A rule over a misspelt resource would match nothing."""
    ours = {kind.kind_info.plural for kind in KINDS}
    named = {
        resource.partition("/")[0]
        for policy in POLICIES
        for rule in policy.rules
        if rule.group == KINDS[0].kind_info.group
        for resource in rule.resources
    }
    assert named <= ours
