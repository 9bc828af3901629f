"""A live cluster answers where the stream does not know: only about kinds that rules ask for, only what it reads."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from ugallu.api.meta import Metadata, decode_strict
from ugallu.sdk import AuditRecord, SigmaEmit, SigmaMatch, SigmaRuleSpec
from ugallu.testing.clock import settled
from ugallu.testing.cluster import FaultyCluster, memory_cluster, running_cache
from ugallu_audit_detection import inventory as kinds
from ugallu_audit_detection.context import Context
from ugallu_audit_detection.inventory import Inventory
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.match import Matcher

EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]
RBAC = "rbac.authorization.k8s.io"
SETTLED = 10


class House:
    """A context beside a cluster in memory."""

    def __init__(self, cluster: FaultyCluster, inventory: Inventory) -> None:
        self.cluster = cluster
        self.inventory = inventory

    def knows(self, match: dict[str, Any], event: dict[str, Any]) -> bool | None:
        """Whether the condition holds for the event; None when nobody knows."""
        rule = self.rule(match)
        record = msgspec.json.decode(json.dumps(event), type=AuditRecord)
        context = Context()
        context.inventory = self.inventory
        context.ask([rule])
        place = {name: asked for name, asked in match.items() if name == "objectRef"}
        denied = self.rule({**place, "not": {name: asked for name, asked in match.items() if name != "objectRef"}})
        holds, fails = (bool(Matcher([each], context=context).match(record)) for each in (rule, denied))
        assert not (holds and fails)
        return True if holds else False if fails else None

    @staticmethod
    def rule(match: dict[str, Any]) -> CompiledRule:
        return compile_rule("r", SigmaRuleSpec(match=decode_strict(SigmaMatch, match, where="r"), emit=EMIT))

    async def settle(self, match: dict[str, Any], event: dict[str, Any]) -> bool | None:
        """Ask for the kinds, wait until somebody knows, and say what."""
        rule = self.rule(match)
        self.inventory.want(rule.asks)
        with anyio.move_on_after(SETTLED):
            while self.knows(match, event) is None:
                await anyio.lowlevel.checkpoint()
        return self.knows(match, event)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    cluster = FaultyCluster(memory_cluster(judging=False), lambda _: None)
    async with running_cache(cluster) as cache, anyio.create_task_group() as tasks:
        inventory = Inventory(cache)
        tasks.start_soon(inventory.run)
        yield House(cluster, inventory)
        tasks.cancel_scope.cancel()


def execute(name: str = "web") -> dict[str, Any]:
    return {
        "verb": "create",
        "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": name},
    }


def target(path: str, *patterns: str) -> dict[str, Any]:
    return {"targetPod": [{"jsonPath": path, "patterns": list(patterns)}]}


def running(**spec: Any) -> kinds.RunningPod:
    return kinds.RunningPod(
        metadata=Metadata(name="web", namespace="shop"), spec=decode_strict(kinds.PodSpec, spec, where="pod")
    )


async def test_the_pod_that_is_entered_is_known_to_a_live_cluster() -> None:
    """Though nobody recorded how it came to be."""
    async with house() as here:
        await here.cluster.create(running(hostPID=True, containers=[
            {"name": "a"}, {"name": "b", "securityContext": {"privileged": True, "runAsUser": 0}},
        ]))  # fmt: skip
        assert await here.settle(target("$ctr[*].securityContext.privileged", "true"), execute()) is True
        assert here.knows(target("$pod.hostPID", "true"), execute()) is True
        assert here.knows(target("$ctr[*].securityContext.runAsUser", "0"), execute()) is True
        assert here.knows(target("$pod.hostNetwork", "true"), execute()) is False
        assert here.knows(target("$.metadata.labels.app", "*"), execute()) is False
        assert here.knows(target("$pod.hostNetwork", "true"), execute("another")) is None


@pytest.mark.parametrize(
    "path", ["$pod.tolerations", "$ctr[*].env[*].name", "$pod.containers", "$.spec", "$.status.phase"]
)
async def test_what_is_not_read_of_pods_is_unknown(path: str) -> None:
    """A watch keeps a few fields; that a Pod lacks another one is nothing it can say."""
    async with house() as here:
        await here.cluster.create(running(containers=[{"name": "a"}]))
        assert await here.settle(target("$pod.hostPID", "true"), execute()) is False
        assert here.knows(target(path, "*"), execute()) is None


def bound(account: str, role: str, **more: Any) -> kinds.ClusterRoleBinding:
    return kinds.ClusterRoleBinding(
        metadata=Metadata(name=f"{account}-{role}"),
        role_ref=kinds.RoleReference(kind="ClusterRole", name=role),
        subjects=(kinds.Grantee(kind="ServiceAccount", name=account, namespace="shop"),),
        **more,
    )


def token(account: str) -> dict[str, Any]:
    ref = {"resource": "serviceaccounts", "subresource": "token", "namespace": "shop", "name": account}
    return {"verb": "create", "objectRef": ref}


WILD: dict[str, Any] = {"serviceAccountGrants": [{"verbs": ["*"], "resources": ["*"]}]}


async def test_rights_are_known_either_way() -> None:
    """Once all roles and bindings were read, also that an account has none."""
    async with house() as here:
        await here.cluster.create(bound("boss", "cluster-admin"))
        await here.cluster.create(bound("reader", "view"))
        await here.cluster.create(bound("own", "wide"))
        star = kinds.PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",))
        await here.cluster.create(kinds.ClusterRole(metadata=Metadata(name="wide"), rules=(star,)))
        await here.cluster.create(kinds.ClusterRole(metadata=Metadata(name="cluster-admin"), rules=(star,)))
        assert await here.settle(WILD, token("nobody")) is False
        assert here.knows(WILD, token("boss")) is True
        assert here.knows(WILD, token("own")) is True
        assert here.knows(WILD, token("reader")) is False
        patch = {"verb": "patch", "requestObject": {"metadata": {"labels": {"a": "b"}}},
                 "objectRef": {"resource": "clusterrolebindings", "apiGroup": RBAC, "name": "own-wide"}}  # fmt: skip
        assert here.knows({"roleGrants": [{"verbs": ["*"], "resources": ["*"]}]}, patch) is True


async def test_nothing_is_watched_that_no_rule_asks_for() -> None:
    """Neither before, nor for what stood before a write."""
    async with house() as here:
        past = {"objectRef": {"resource": ["pods"]}, "previous": [{"jsonPath": "$pod.hostPID", "patterns": ["true"]}]}
        await here.cluster.create(running(hostPID=True))
        here.inventory.want(here.rule(past).asks)
        await settled()
        assert not [call for call in here.cluster.calls if call.verb in ("list", "watch")]
        update = {"verb": "update", "objectRef": {"resource": "pods", "namespace": "shop", "name": "web"}}
        assert here.knows(past, update) is None
        assert await here.settle(target("$pod.hostPID", "true"), execute()) is True
        assert {call.kind.kind_info.name for call in here.cluster.calls if call.verb == "list"} == {"Pod"}
