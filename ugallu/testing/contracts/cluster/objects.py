"""What the battery works with: rules, readers of them, and what a watch told."""

import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, ClassVar

import anyio

from ugallu.api.catalog import Severity
from ugallu.api.meta import Kind, Metadata, Resource, Wire
from ugallu.api.sigma import (
    SigmaEmit,
    SigmaMatch,
    SigmaRule,
    SigmaRuleSpec,
)
from ugallu.cluster.port import (
    Change,
    Cluster,
    Notice,
)

PATIENCE = 30.0
"""Seconds that a test waits for what must come."""


class SlimRule(Resource, frozen=True, kw_only=True):
    """A SigmaRule as a reader sees it who cares for its metadata alone."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info


class OpenRule(Resource, frozen=True, kw_only=True):
    """A SigmaRule with everything that is stored."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info
    spec: dict[str, object] = {}
    status: dict[str, object] = {}


class DescribedSpec(Wire, frozen=True, kw_only=True):
    """A spec that insists on a description."""

    description: str


class DescribedRule(Resource, frozen=True, kw_only=True):
    """A SigmaRule through a Struct that not every rule fits."""

    kind_info: ClassVar[Kind] = SigmaRule.kind_info
    spec: DescribedSpec


class NoSuchKind(Resource, frozen=True, kw_only=True):
    """A kind that no cluster has."""

    kind_info: ClassVar[Kind] = Kind("NoSuchKind", "nosuchkinds", group="nosuch.ugallu.io")


def rule(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> SigmaRule:  # noqa: ANN401 - of SigmaRuleSpec
    """Return a small valid rule; it asks for a verb, since admission refuses one that asks nothing."""
    spec = {"match": SigmaMatch(verb=("get",)), **spec}
    return SigmaRule(
        metadata=Metadata(name=name, labels=labels or {}),
        spec=SigmaRuleSpec(emit=SigmaEmit(security_event_type="ExecIntoPod", severity=Severity.LOW), **spec),
    )


def unique(word: str = "t") -> str:
    """Return a name that nobody else uses."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


async def drain(cluster: Cluster, since: str) -> None:
    """Watch rules from `since` for as long as the cluster lets us."""
    with anyio.fail_after(PATIENCE):
        async with aclosing(cluster.watch(SigmaRule, since=since)) as notices:  # type: ignore[type-var]
            async for _ in notices:
                pass


async def collect(
    cluster: Cluster, since: str, enough: Callable[[list[Notice[SigmaRule]]], bool], **scope: str
) -> list[Notice[SigmaRule]]:
    """Watch rules from `since` until there is enough; bookmarks left out."""
    seen: list[Notice[SigmaRule]] = []
    with anyio.fail_after(PATIENCE):
        async with aclosing(cluster.watch(SigmaRule, since=since, **scope)) as notices:  # type: ignore[type-var]
            async for notice in notices:
                if notice.change is not Change.BOOKMARK:
                    seen.append(notice)
                    if enough(seen):
                        break
    return seen


def told(notices: list[Notice[SigmaRule]]) -> list[tuple[str, str]]:
    """Return change and name of each notice."""
    return [(notice.change.value, notice.object.metadata.name) for notice in notices if notice.object is not None]


def replayed(start: list[SigmaRule], notices: list[Notice[SigmaRule]]) -> dict[str, str]:
    """Return name -> resourceVersion after the changes; fails on a change that cannot follow the one before."""
    state = {item.metadata.name: item.metadata.resource_version for item in start}
    for notice in notices:
        assert notice.object is not None
        name, version = notice.object.metadata.name, notice.object.metadata.resource_version
        if notice.change is Change.ADDED:
            assert name not in state, f"{name} added twice"
            state[name] = version
        elif notice.change is Change.MODIFIED:
            assert name in state, f"{name} modified before it was added"
            assert state[name] != version, f"{name} told of twice at {version}"
            state[name] = version
        else:
            assert state.pop(name, None) is not None, f"{name} deleted before it was added"
    return state
