"""The battery for `Cluster`: what every implementation must do, whether it is embedded or a real API server.

A subclass in `tests/` provides a `cluster` fixture and says what its cluster can do. The tests share the cluster with
others, so they use names of their own, wait by watching, with a bound, and take resourceVersions for opaque.
"""

import datetime as dt
import itertools
import random
import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from ugallu.api.catalog import Severity
from ugallu.api.core import Lease, LeaseSpec
from ugallu.api.meta import Condition, Kind, Metadata, OwnerReference, Resource, Wire
from ugallu.api.sigma import (
    SigmaEmit,
    SigmaMatch,
    SigmaRule,
    SigmaRuleSpec,
    SigmaRuleStatus,
    UserMatch,
)
from ugallu.cluster.port import (
    AlreadyExistsError,
    Change,
    Cluster,
    GoneError,
    InvalidError,
    NotFoundError,
    Notice,
    OutdatedError,
    Preconditions,
    list_all,
)
from ugallu.errors import ConflictError

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
    """Return a small valid rule."""
    return SigmaRule(
        metadata=Metadata(name=name, labels=labels or {}),
        spec=SigmaRuleSpec(emit=SigmaEmit(security_event_type="SecretAccess", severity=Severity.LOW), **spec),
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


class ClusterContract:
    """Every sentence of the port's docstring as a test."""

    collects_garbage: ClassVar[bool] = True
    """Dependents of a deleted owner go (a bare API server has no controller for it)."""
    bookmark_within: ClassVar[float] = 0.0
    """Seconds within which a quiet watch gets a bookmark; 0: longer than a test should take."""

    async def forget_history(self, cluster: Cluster) -> bool:  # noqa: ARG002 - for subclasses
        """Make the cluster forget what was before now; False: it cannot be made to."""
        return False

    # Creating

    async def test_a_created_object_gets_its_system_fields(self, cluster: Cluster) -> None:
        """uid, resourceVersion, generation 1 and a UTC creationTimestamp of whole seconds come from the cluster."""
        name = unique()
        made = await cluster.create(rule(name).with_metadata(uid="mine", generation=9))
        assert made.metadata.uid not in ("", "mine")
        assert made.metadata.resource_version
        assert made.metadata.generation == 1
        assert made.metadata.creation_timestamp is not None
        assert made.metadata.creation_timestamp.utcoffset() == dt.timedelta(0)
        assert made.metadata.creation_timestamp.microsecond == 0
        assert await cluster.get(SigmaRule, name) == made

    async def test_create_drops_status(self, cluster: Cluster) -> None:
        """A status in a create is not stored: it has a road of its own."""
        new = msgspec.structs.replace(rule(unique()), status=SigmaRuleStatus(match_count=7))
        made = await cluster.create(new)
        assert made.status.match_count == 0
        assert (await cluster.get(SigmaRule, made.metadata.name)).status.match_count == 0

    async def test_a_taken_name_is_refused(self, cluster: Cluster) -> None:
        """The second create of a name is AlreadyExists, and changes nothing."""
        made = await cluster.create(rule(unique()))
        with pytest.raises(AlreadyExistsError) as caught:
            await cluster.create(rule(made.metadata.name, description="another"))
        assert isinstance(caught.value, ConflictError)
        assert await cluster.get(SigmaRule, made.metadata.name) == made

    async def test_of_many_that_create_one_name_one_wins(self, cluster: Cluster) -> None:
        """Concurrent creates of a name: one object, all the others learn that it exists."""
        name = unique()
        won: list[SigmaRule] = []
        lost: list[int] = []

        async def contend(number: int) -> None:
            try:
                won.append(await cluster.create(rule(name, description=str(number))))
            except AlreadyExistsError:
                lost.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(contend, number)
        assert len(won) == 1
        assert len(lost) == 19
        assert await cluster.get(SigmaRule, name) == won[0]

    async def test_a_generated_name_has_the_prefix_and_is_new(self, cluster: Cluster) -> None:
        """GenerateName gets a suffix, another one each time."""
        prefix = unique() + "-"
        nameless = rule("").with_metadata(generate_name=prefix)
        names = {(await cluster.create(nameless)).metadata.name for _ in range(5)}
        assert len(names) == 5
        assert all(name.startswith(prefix) and len(name) > len(prefix) for name in names)

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": ""},
            {"name": "Upper"},
            {"name": "-dash"},
            {"name": "under_score"},
            {"name": "x" * 254},
            {"labels": {"a b": "c"}},
            {"labels": {"a": "c d"}},
            {"labels": {"a": "x" * 64}},
            {"labels": {"-/a": "b"}},
            {"annotations": {"a b": "c"}},
            {"namespace": "default"},
            {"owner_references": (OwnerReference(api_version="v1", kind="Pod", name="p", uid=""),)},
        ],
        ids=str,
    )
    async def test_bad_metadata_is_refused(self, cluster: Cluster, changes: dict[str, Any]) -> None:
        """Names, labels, annotations, owners and scope follow the rules of Kubernetes."""
        with pytest.raises(InvalidError):
            await cluster.create(rule(unique()).with_metadata(**changes))

    async def test_a_create_with_a_version_is_refused(self, cluster: Cluster) -> None:
        """ResourceVersion is for objects that exist."""
        made = await cluster.create(rule(unique()))
        with pytest.raises(InvalidError):
            await cluster.create(made.with_metadata(name=unique()))

    async def test_a_namespaced_kind_needs_its_namespace(self, cluster: Cluster) -> None:
        """An object is found in its own namespace only, and not created without one."""
        name = unique()
        with pytest.raises(InvalidError):
            await cluster.create(Lease(metadata=Metadata(name=name)))
        made = await cluster.create(Lease(metadata=Metadata(name=name, namespace="default")))
        assert await cluster.get(Lease, name, "default") == made
        with pytest.raises(NotFoundError):
            await cluster.get(Lease, name, "kube-system")
        await cluster.create(Lease(metadata=Metadata(name=name, namespace="kube-system")))
        page = await cluster.list(Lease, namespace="default", fields=f"metadata.name={name}")
        assert page.items == (made,)
        both = await cluster.list(Lease, fields=f"metadata.name={name}")
        assert sorted(lease.metadata.namespace for lease in both.items) == ["default", "kube-system"]
        only = await cluster.list(Lease, fields=f"metadata.name={name},metadata.namespace!=default")
        assert [lease.metadata.namespace for lease in only.items] == ["kube-system"]

    async def test_what_is_not_there_is_not_found(self, cluster: Cluster) -> None:
        """Every verb on an object or a kind that does not exist says so."""
        name = unique()
        with pytest.raises(NotFoundError):
            await cluster.get(SigmaRule, name)
        with pytest.raises(NotFoundError):
            await cluster.get(NoSuchKind, name)
        with pytest.raises(NotFoundError):
            await cluster.patch(SigmaRule, name, {"spec": {"enabled": False}})
        with pytest.raises(NotFoundError):
            await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        with pytest.raises(NotFoundError):
            await cluster.delete(SigmaRule, name)

    # The schema

    @pytest.mark.parametrize(
        ("patch", "field"),
        [
            ({"emit": {"severity": "dreadful"}}, "severity"),
            ({"enabled": "yes"}, "enabled"),
            ({"tags": "one"}, "tags"),
            ({"rateLimit": {"burst": "many"}}, "burst"),
            ({"match": {"anyOf": [{"verb": 1}]}}, "verb"),
        ],
        ids=str,
    )
    async def test_what_breaks_the_schema_is_refused_with_its_path(
        self, cluster: Cluster, patch: dict[str, Any], field: str
    ) -> None:
        """Wrong types and unknown enum values are InvalidError naming the field, and nothing is stored."""
        made = await cluster.create(rule(unique()))
        with pytest.raises(InvalidError) as caught:
            await cluster.patch(SigmaRule, made.metadata.name, {"spec": patch})
        assert field in str(caught.value)
        assert await cluster.get(SigmaRule, made.metadata.name) == made

    async def test_a_broken_status_is_refused(self, cluster: Cluster) -> None:
        """Status has a schema as well."""
        made = await cluster.create(rule(unique()))
        with pytest.raises(InvalidError) as caught:
            await cluster.patch_status(SigmaRule, made.metadata.name, {"matchCount": "lots"})
        assert "matchCount" in str(caught.value)

    async def test_unknown_fields_are_pruned(self, cluster: Cluster) -> None:
        """What the schema does not know is dropped at any depth; what is known beside it stays."""
        name = (await cluster.create(rule(unique()))).metadata.name
        await cluster.patch(
            SigmaRule,
            name,
            {"spec": {"noSuchField": 1, "description": "d", "match": {"verb": ["get"], "user": {"shoe": 43}}}},
        )
        await cluster.patch_status(SigmaRule, name, {"noSuchField": 1, "matchCount": 2})
        stored = await cluster.get(OpenRule, name)
        assert "noSuchField" not in stored.spec
        assert stored.spec["description"] == "d"
        assert stored.spec["match"] == {"verb": ["get"], "user": {}}
        assert stored.status == {"matchCount": 2}

    async def test_a_slim_reader_loses_nothing(self, cluster: Cluster) -> None:
        """A patch through a Struct that leaves fields out keeps them."""
        made = await cluster.create(rule(unique(), description="kept"))
        slim = await cluster.patch(SlimRule, made.metadata.name, {"metadata": {"annotations": {"seen": "yes"}}})
        assert slim.metadata.annotations == {"seen": "yes"}
        full = await cluster.get(SigmaRule, made.metadata.name)
        assert full.spec == made.spec

    # Patching

    async def test_a_merge_patch_sets_merges_and_removes(self, cluster: Cluster) -> None:
        """RFC 7396: objects merge, null removes, lists and scalars replace."""
        match = SigmaMatch(verb=("get",), user=UserMatch(groups=("a",), uid=("u",)))
        made = await cluster.create(rule(unique(), description="old", tags=("x", "y"), match=match))
        patched = await cluster.patch(
            SigmaRule,
            made.metadata.name,
            {"spec": {"description": None, "tags": ["z"], "match": {"verb": None, "user": {"groups": ["b"]}}}},
        )
        assert patched.spec.description == ""
        assert patched.spec.tags == ("z",)
        assert patched.spec.match.verb is None
        assert patched.spec.match.user == UserMatch(groups=("b",), uid=("u",))
        assert patched.spec.emit == made.spec.emit
        assert patched.metadata.uid == made.metadata.uid

    async def test_generation_counts_changes_of_what_is_wanted(self, cluster: Cluster) -> None:
        """A change of spec is a new generation; one of labels or status is not."""
        name = (await cluster.create(rule(unique()))).metadata.name
        labelled = await cluster.patch(SigmaRule, name, {"metadata": {"labels": {"a": "b"}}})
        assert labelled.metadata.generation == 1
        counted = await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        assert counted.metadata.generation == 1
        changed = await cluster.patch(SigmaRule, name, {"spec": {"description": "new"}})
        assert changed.metadata.generation == 2
        versions = {each.metadata.resource_version for each in (labelled, counted, changed)}
        assert len(versions) == 3

    async def test_a_write_that_changes_nothing_keeps_the_version(self, cluster: Cluster) -> None:
        """Patch, status patch and apply of what is there already leave resourceVersion alone."""
        made = await cluster.create(rule(unique(), description="d", labels={"a": "b"}))
        name = made.metadata.name
        counted = await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        again = await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        assert again == counted
        same = await cluster.patch(
            SigmaRule, name, {"metadata": {"labels": {"a": "b", "c": None}}, "spec": {"description": "d"}}
        )
        assert same == counted
        applied = await cluster.apply(rule(unique(), description="x"), manager="one")
        assert await cluster.apply(rule(applied.metadata.name, description="x"), manager="one") == applied

    async def test_a_patch_cannot_touch_status(self, cluster: Cluster) -> None:
        """Status in a patch of the object is ignored."""
        name = (await cluster.create(rule(unique()))).metadata.name
        await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        patched = await cluster.patch(SigmaRule, name, {"status": {"matchCount": 9}, "spec": {"description": "d"}})
        assert patched.status.match_count == 1
        assert patched.spec.description == "d"

    async def test_a_status_patch_merges_and_leaves_the_rest(self, cluster: Cluster) -> None:
        """Fields of status merge, null removes; spec and metadata stay."""
        made = await cluster.create(rule(unique(), description="d"))
        name = made.metadata.name
        ready = Condition(type="Ready", status="True", reason="Armed")
        await cluster.patch_status(SigmaRule, name, {"matchCount": 1, "parseError": "bad"})
        patched = await cluster.patch_status(
            SigmaRule, name, {"parseError": None, "conditions": [msgspec.to_builtins(ready)]}
        )
        assert patched.status.match_count == 1
        assert patched.status.parse_error == ""
        assert [each.reason for each in patched.status.conditions] == ["Armed"]
        assert patched.spec == made.spec

    @pytest.mark.parametrize("metadata", [{"name": "another"}, {"creationTimestamp": "2001-01-01T00:00:00Z"}], ids=str)
    async def test_a_patch_cannot_make_it_another_object(self, cluster: Cluster, metadata: dict[str, str]) -> None:
        """Name and creation time are for ever."""
        name = (await cluster.create(rule(unique()))).metadata.name
        with pytest.raises(InvalidError):
            await cluster.patch(SigmaRule, name, {"metadata": metadata})

    async def test_preconditions_guard_every_write(self, cluster: Cluster) -> None:
        """A uid or resourceVersion that does not hold is Outdated and changes nothing; one that holds lets through."""
        made = await cluster.create(rule(unique()))
        name = made.metadata.name
        now = await cluster.patch(SigmaRule, name, {"spec": {"description": "new"}})
        stale = Preconditions(resource_version=made.metadata.resource_version)
        foreign = Preconditions(uid=str(uuid.uuid4()))
        for when in (stale, foreign):
            with pytest.raises(OutdatedError):
                await cluster.patch(SigmaRule, name, {"spec": {"description": "x"}}, when=when)
            with pytest.raises(OutdatedError):
                await cluster.patch_status(SigmaRule, name, {"matchCount": 5}, when=when)
            with pytest.raises(OutdatedError):
                await cluster.delete(SigmaRule, name, when=when)
        assert await cluster.get(SigmaRule, name) == now
        right = Preconditions(uid=now.metadata.uid, resource_version=now.metadata.resource_version)
        counted = await cluster.patch_status(SigmaRule, name, {"matchCount": 5}, when=right)
        right = Preconditions(uid=now.metadata.uid, resource_version=counted.metadata.resource_version)
        await cluster.delete(SigmaRule, name, when=right)

    async def test_read_modify_write_loses_no_update(self, cluster: Cluster) -> None:
        """Writers that guard with resourceVersion and retry on conflict add up exactly."""
        name = (await cluster.create(rule(unique()))).metadata.name

        async def add() -> None:
            for _ in range(5):
                while True:
                    seen = await cluster.get(SigmaRule, name)
                    try:
                        await cluster.patch_status(
                            SigmaRule,
                            name,
                            {"matchCount": seen.status.match_count + 1},
                            when=Preconditions(resource_version=seen.metadata.resource_version),
                        )
                        break
                    except OutdatedError:
                        continue

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(add)
        assert (await cluster.get(SigmaRule, name)).status.match_count == 25

    # Applying

    async def test_apply_creates_then_merges(self, cluster: Cluster) -> None:
        """The first apply creates, the next one changes; status is not applied."""
        name = unique()
        first = await cluster.apply(
            msgspec.structs.replace(rule(name, description="one"), status=SigmaRuleStatus(match_count=3)), manager="a"
        )
        assert first.metadata.generation == 1
        assert first.status.match_count == 0
        second = await cluster.apply(rule(name, description="two"), manager="a")
        assert second.metadata.uid == first.metadata.uid
        assert second.spec.description == "two"
        assert second.metadata.generation == 2

    async def test_apply_removes_what_its_manager_leaves_out(self, cluster: Cluster) -> None:
        """A field that this manager applied before and leaves out now goes; what others set stays."""
        name = unique()
        match = SigmaMatch(verb=("get",), user=UserMatch(groups=("a",), uid=("u",)))
        await cluster.apply(
            rule(name, description="d", tags=("x",), match=match, labels={"mine": "1", "old": "1"}), manager="a"
        )
        await cluster.patch(
            SigmaRule, name, {"metadata": {"labels": {"theirs": "1"}}, "spec": {"references": ["https://example.org"]}}
        )
        await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        less = SigmaMatch(verb=("get",), user=UserMatch(uid=("u",)))
        after = await cluster.apply(rule(name, match=less, labels={"mine": "1"}), manager="a")
        assert after.spec.description == ""
        assert after.spec.tags == ()
        assert after.spec.match == less
        assert after.metadata.labels == {"mine": "1", "theirs": "1"}
        assert after.spec.references == ("https://example.org",)
        assert after.status.match_count == 1

    async def test_managers_share_an_object(self, cluster: Cluster) -> None:
        """Each manager's fields are its own; a field that two applied stays until both leave it out."""
        name = unique()
        await cluster.apply(rule(name, description="same", tags=("a",)), manager="a")
        await cluster.apply(rule(name, description="same", references=("r",)), manager="b")
        after_a = await cluster.apply(rule(name), manager="a")
        assert after_a.spec.description == "same"
        assert after_a.spec.tags == ()
        assert after_a.spec.references == ("r",)
        after_b = await cluster.apply(rule(name), manager="b")
        assert after_b.spec.description == ""
        assert after_b.spec.references == ()

    async def test_apply_forces_conflicts(self, cluster: Cluster) -> None:
        """The last to apply a value owns it: the manager it was taken from cannot remove it any more."""
        name = unique()
        await cluster.apply(rule(name, description="by a"), manager="a")
        taken = await cluster.apply(rule(name, description="by b"), manager="b")
        assert taken.spec.description == "by b"
        left = await cluster.apply(rule(name), manager="a")
        assert left.spec.description == "by b"

    async def test_a_patch_takes_over_an_applied_field(self, cluster: Cluster) -> None:
        """Once somebody else changed the value, its former manager leaves it alone."""
        name = unique()
        await cluster.apply(rule(name, description="applied"), manager="a")
        await cluster.patch(SigmaRule, name, {"spec": {"description": "patched"}})
        after = await cluster.apply(rule(name), manager="a")
        assert after.spec.description == "patched"

    async def test_apply_leaves_what_was_created(self, cluster: Cluster) -> None:
        """The fields of a create are not the applier's: leaving them out removes nothing."""
        made = await cluster.create(rule(unique(), description="created", tags=("t",)))
        after = await cluster.apply(rule(made.metadata.name, references=("r",)), manager="a")
        assert after.spec.description == "created"
        assert after.spec.tags == ("t",)
        assert after.spec.references == ("r",)

    # Deleting

    async def test_a_deleted_object_is_gone(self, cluster: Cluster) -> None:
        """Delete removes; the name may be used anew and means another object."""
        made = await cluster.create(rule(unique()))
        await cluster.delete(SigmaRule, made.metadata.name)
        with pytest.raises(NotFoundError):
            await cluster.get(SigmaRule, made.metadata.name)
        anew = await cluster.create(rule(made.metadata.name))
        assert anew.metadata.uid != made.metadata.uid

    async def test_finalizers_hold_an_object(self, cluster: Cluster) -> None:
        """Delete sets deletionTimestamp and waits; when the last finalizer is removed the object goes."""
        name = unique()
        made = await cluster.create(rule(name).with_metadata(finalizers=("ugallu.io/a", "ugallu.io/b")))
        await cluster.delete(SigmaRule, name)
        marked = await cluster.get(SigmaRule, name)
        assert marked.metadata.deletion_timestamp is not None
        assert marked.metadata.uid == made.metadata.uid
        await cluster.delete(SigmaRule, name)
        assert await cluster.get(SigmaRule, name) == marked
        await cluster.patch_status(SigmaRule, name, {"matchCount": 1})
        with pytest.raises(InvalidError):
            await cluster.patch(SigmaRule, name, {"metadata": {"finalizers": ["ugallu.io/a", "ugallu.io/late"]}})
        await cluster.patch(SigmaRule, name, {"metadata": {"finalizers": ["ugallu.io/b"]}})
        assert (await cluster.get(SigmaRule, name)).metadata.finalizers == ("ugallu.io/b",)
        await cluster.patch(SigmaRule, name, {"metadata": {"finalizers": None}})
        with pytest.raises(NotFoundError):
            await cluster.get(SigmaRule, name)

    async def test_dependents_are_collected(self, cluster: Cluster) -> None:
        """When an owner goes, what it owned goes, and what that owned; what has another owner stays."""
        if not self.collects_garbage:
            pytest.skip("this cluster runs no garbage collector")
        label = unique()

        async def owned_by(*owners: SigmaRule) -> SigmaRule:
            refs = tuple(
                OwnerReference(
                    api_version=SigmaRule.kind_info.api_version,
                    kind="SigmaRule",
                    name=owner.metadata.name,
                    uid=owner.metadata.uid,
                )
                for owner in owners
            )
            return await cluster.create(rule(unique(), labels={"t": label}).with_metadata(owner_references=refs))

        owner, other = await owned_by(), await owned_by()
        child = await owned_by(owner)
        await owned_by(child)
        shared = await owned_by(owner, other)
        _, since = await list_all(cluster, SigmaRule, labels=f"t={label}")
        await cluster.delete(SigmaRule, owner.metadata.name)
        await collect(cluster, since, lambda seen: len(seen) >= 4, labels=f"t={label}")
        left, _ = await list_all(cluster, SigmaRule, labels=f"t={label}")
        assert {item.metadata.name for item in left} == {other.metadata.name, shared.metadata.name}
        kept = await cluster.get(SigmaRule, shared.metadata.name)
        assert [ref.uid for ref in kept.metadata.owner_references] == [other.metadata.uid]

    async def test_an_object_whose_owner_is_gone_is_collected(self, cluster: Cluster) -> None:
        """An object that names an owner which does not exist any more does not stay either."""
        if not self.collects_garbage:
            pytest.skip("this cluster runs no garbage collector")
        owner = await cluster.create(rule(unique()))
        await cluster.delete(SigmaRule, owner.metadata.name)
        label = unique()
        _, since = await list_all(cluster, SigmaRule, labels=f"t={label}")
        ref = OwnerReference(
            api_version=SigmaRule.kind_info.api_version, kind="SigmaRule", name=owner.metadata.name,
            uid=owner.metadata.uid,
        )  # fmt: skip
        late = await cluster.create(rule(unique(), labels={"t": label}).with_metadata(owner_references=(ref,)))
        seen = await collect(cluster, since, lambda seen: seen[-1].change is Change.DELETED, labels=f"t={label}")
        assert told(seen)[-1] == ("DELETED", late.metadata.name)

    # Listing

    async def test_selectors_select(self, cluster: Cluster) -> None:
        """Every form of `kubectl -l` and of `--field-selector` finds what it should."""
        t = unique()
        for name, labels in {"a": {"x": "1", "y": "u"}, "b": {"x": "2"}, "c": {"y": "v", "n": "7"}}.items():
            await cluster.create(rule(f"{t}-{name}", labels={"t": t, **labels}))

        async def found(labels: str = "", fields: str = "") -> str:
            items, _ = await list_all(cluster, SigmaRule, labels=f"t={t},{labels}".rstrip(","), fields=fields)
            return "".join(sorted(item.metadata.name.removeprefix(f"{t}-") for item in items))

        assert await found() == "abc"
        assert await found("x=1") == "a"
        assert await found("x==1") == "a"
        assert await found("x!=1") == "bc"
        assert await found("x in (1, 2)") == "ab"
        assert await found("x notin (1)") == "bc"
        assert await found("x") == "ab"
        assert await found("!x") == "c"
        assert await found("x,y") == "a"
        assert await found("n>6") == "c"
        assert await found("n<7") == ""
        assert await found("x=1,x=2") == ""
        assert await found(fields=f"metadata.name={t}-b") == "b"
        assert await found(fields=f"metadata.name!={t}-b") == "ac"
        assert await found("x", fields=f"metadata.name=={t}-c") == ""

    @pytest.mark.parametrize(
        "scope",
        [
            {"labels": "a="},
            {"labels": "a in ()"},
        ],
        ids=str,
    )
    async def test_odd_selectors_are_taken(self, cluster: Cluster, scope: dict[str, str]) -> None:
        """An empty value is a value."""
        await cluster.list(SigmaRule, **scope)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "scope",
        [
            {"labels": "a in"},
            {"labels": "a in (b"},
            {"labels": "a b"},
            {"labels": "=a"},
            {"labels": ",,"},
            {"labels": "a=b c"},
            {"labels": "-a=b"},
            {"labels": "n>x"},
            {"fields": "spec.description=x"},
            {"fields": "metadata.name"},
            {"fields": "metadata.name>x"},
            {"continue_token": "no-token"},
        ],
        ids=str,
    )
    async def test_nonsense_is_refused(self, cluster: Cluster, scope: dict[str, str]) -> None:
        """A selector that does not parse, a field that cannot be selected, a token that is none: InvalidError."""
        with pytest.raises(InvalidError):
            await cluster.list(SigmaRule, **scope)  # type: ignore[arg-type]

    async def test_pages_show_one_moment(self, cluster: Cluster) -> None:
        """All pages of a list are of one resourceVersion: changes made meanwhile are not in it, and not missing."""
        t = unique()
        for number in range(7):
            await cluster.create(rule(f"{t}-{number}", labels={"t": t}))
        first = await cluster.list(SigmaRule, labels=f"t={t}", limit=3)
        assert len(first.items) == 3
        assert first.continue_token
        await cluster.delete(SigmaRule, f"{t}-5")
        await cluster.create(rule(f"{t}-55", labels={"t": t}))
        await cluster.patch(SigmaRule, f"{t}-6", {"spec": {"description": "later"}})
        pages = [first]
        while pages[-1].continue_token:
            pages.append(
                await cluster.list(SigmaRule, labels=f"t={t}", limit=3, continue_token=pages[-1].continue_token)
            )
        assert [len(page.items) for page in pages] == [3, 3, 1]
        assert {page.resource_version for page in pages} == {first.resource_version}
        items = [item for page in pages for item in page.items]
        assert [item.metadata.name for item in items] == [f"{t}-{number}" for number in range(7)]
        assert items[6].spec.description == ""
        seen = await collect(cluster, first.resource_version, lambda seen: len(seen) == 3, labels=f"t={t}")
        assert told(seen) == [("DELETED", f"{t}-5"), ("ADDED", f"{t}-55"), ("MODIFIED", f"{t}-6")]

    async def test_what_does_not_decode_is_counted(self, cluster: Cluster) -> None:
        """An object that the caller's Struct cannot hold is skipped and counted, the rest is listed."""
        t = unique()
        await cluster.create(rule(f"{t}-a", labels={"t": t}, description="d"))
        await cluster.create(rule(f"{t}-b", labels={"t": t}))
        page = await cluster.list(DescribedRule, labels=f"t={t}")
        assert [item.metadata.name for item in page.items] == [f"{t}-a"]
        assert page.skipped == 1

    # Watching

    async def test_a_watch_yields_every_later_change_in_order(self, cluster: Cluster) -> None:
        """What came before `since` is not told; each change after it is, once, with the object as it was then."""
        t = unique()
        await cluster.create(rule(f"{t}-old", labels={"t": t}))
        _, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        made = await cluster.create(rule(f"{t}-a", labels={"t": t}))
        patched = await cluster.patch(SigmaRule, f"{t}-a", {"spec": {"description": "d"}})
        counted = await cluster.patch_status(SigmaRule, f"{t}-a", {"matchCount": 1})
        await cluster.patch_status(SigmaRule, f"{t}-a", {"matchCount": 1})
        await cluster.delete(SigmaRule, f"{t}-a")
        seen = await collect(cluster, since, lambda seen: len(seen) == 4, labels=f"t={t}")
        assert told(seen) == [(change, f"{t}-a") for change in ("ADDED", "MODIFIED", "MODIFIED", "DELETED")]
        assert [notice.object for notice in seen[:3]] == [made, patched, counted]
        last = seen[3].object
        assert last is not None
        assert last.status.match_count == 1
        assert last.metadata.resource_version == seen[3].resource_version
        assert last.metadata.resource_version != counted.metadata.resource_version

    async def test_a_watch_resumes_where_it_stopped(self, cluster: Cluster) -> None:
        """From the version of any notice the rest follows, without a gap and without a repetition."""
        t = unique()
        _, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        for number in range(5):
            await cluster.create(rule(f"{t}-{number}", labels={"t": t}))
        whole = await collect(cluster, since, lambda seen: len(seen) == 5, labels=f"t={t}")
        for cut in range(4):
            ahead = whole[cut + 1 :]

            def enough(seen: list[Notice[SigmaRule]], ahead: list[Notice[SigmaRule]] = ahead) -> bool:
                return len(seen) == len(ahead)

            assert await collect(cluster, whole[cut].resource_version, enough, labels=f"t={t}") == ahead

    async def test_selected_watches_tell_of_coming_and_going(self, cluster: Cluster) -> None:
        """An object that a change brings into the selection is ADDED, one that it takes out is DELETED."""
        t = unique()
        _, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        await cluster.create(rule(f"{t}-a", labels={"t": "no"}))
        await cluster.patch(SigmaRule, f"{t}-a", {"metadata": {"labels": {"t": t}}})
        await cluster.patch(SigmaRule, f"{t}-a", {"spec": {"description": "d"}})
        await cluster.patch(SigmaRule, f"{t}-a", {"metadata": {"labels": {"t": None}}})
        await cluster.patch(SigmaRule, f"{t}-a", {"spec": {"description": "unseen"}})
        await cluster.delete(SigmaRule, f"{t}-a")
        await cluster.create(rule(f"{t}-end", labels={"t": t}))
        seen = await collect(cluster, since, lambda seen: len(seen) == 4, labels=f"t={t}")
        assert told(seen) == [
            ("ADDED", f"{t}-a"),
            ("MODIFIED", f"{t}-a"),
            ("DELETED", f"{t}-a"),
            ("ADDED", f"{t}-end"),
        ]
        by_name = await collect(cluster, since, lambda seen: len(seen) == 6, fields=f"metadata.name={t}-a")
        assert [change for change, _ in told(by_name)] == ["ADDED"] + ["MODIFIED"] * 4 + ["DELETED"]

    async def test_a_watch_of_one_namespace_sees_no_other(self, cluster: Cluster) -> None:
        """The namespace of a watch bounds it."""
        name = unique()
        _, since = await list_all(cluster, Lease, namespace="default")
        await cluster.create(Lease(metadata=Metadata(name=name, namespace="kube-system")))
        await cluster.create(Lease(metadata=Metadata(name=name, namespace="default")))
        with anyio.fail_after(PATIENCE):
            watch = cluster.watch(Lease, since=since, namespace="default", fields=f"metadata.name={name}")
            async with aclosing(watch) as notices:  # type: ignore[type-var]
                async for notice in notices:
                    if notice.object is not None:
                        assert notice.object.metadata.namespace == "default"
                        break

    async def test_a_watch_that_waits_hears_of_what_comes(self, cluster: Cluster) -> None:
        """A watch that has caught up is told of a change made later, and one of another kind does not disturb it."""
        t = unique()
        _, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        got: list[Notice[SigmaRule]] = []
        caught_up, over = anyio.Event(), anyio.Event()

        async def follow() -> None:
            def enough(seen: list[Notice[SigmaRule]]) -> bool:
                caught_up.set()
                return len(seen) == 2

            got.extend(await collect(cluster, since, enough, labels=f"t={t}"))
            over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await cluster.create(rule(f"{t}-a", labels={"t": t}))
            with anyio.fail_after(PATIENCE):
                await caught_up.wait()
            await cluster.create(Lease(metadata=Metadata(name=t, namespace="default"), spec=LeaseSpec()))
            await cluster.create(rule(f"{t}-b", labels={"t": t}))
            with anyio.fail_after(PATIENCE):
                await over.wait()
        assert told(got) == [("ADDED", f"{t}-a"), ("ADDED", f"{t}-b")]

    async def test_a_quiet_watch_gets_bookmarks(self, cluster: Cluster) -> None:
        """A bookmark says how far history has come, and a watch resumes from it."""
        if not self.bookmark_within:
            pytest.skip("bookmarks of this cluster take too long for a test")
        t = unique()
        _, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        await cluster.create(rule(f"{t}-other"))
        mark = ""
        with anyio.fail_after(self.bookmark_within + PATIENCE):
            async with aclosing(cluster.watch(SigmaRule, since=since, labels=f"t={t}")) as notices:  # type: ignore[type-var]
                async for notice in notices:
                    assert notice.change is Change.BOOKMARK
                    assert notice.object is None
                    mark = notice.resource_version
                    break
        assert mark != since
        await cluster.create(rule(f"{t}-a", labels={"t": t}))
        seen = await collect(cluster, mark, lambda seen: len(seen) == 1, labels=f"t={t}")
        assert told(seen) == [("ADDED", f"{t}-a")]

    async def test_history_that_is_gone_is_said_to_be(self, cluster: Cluster) -> None:
        """A watch or a continue token from before the history kept raises Gone; a new list goes on."""
        t = unique()
        for number in range(3):
            await cluster.create(rule(f"{t}-{number}", labels={"t": t}))
        page = await cluster.list(SigmaRule, labels=f"t={t}", limit=1)
        if not await self.forget_history(cluster):
            pytest.skip("this cluster cannot be made to forget")
        with pytest.raises(GoneError):
            await drain(cluster, page.resource_version)
        with pytest.raises(GoneError):
            await cluster.list(SigmaRule, labels=f"t={t}", limit=1, continue_token=page.continue_token)
        items, since = await list_all(cluster, SigmaRule, labels=f"t={t}")
        assert len(items) == 3
        await cluster.delete(SigmaRule, f"{t}-0")
        seen = await collect(cluster, since, lambda seen: len(seen) == 1, labels=f"t={t}")
        assert told(seen) == [("DELETED", f"{t}-0")]

    @pytest.mark.parametrize("since", ["", "yesterday", "-1", "1.5"])
    async def test_a_version_that_is_none_is_refused(self, cluster: Cluster, since: str) -> None:
        """A watch must start behind a version that a list or an object gave."""
        with pytest.raises(InvalidError):
            await drain(cluster, since)

    @pytest.mark.parametrize("seed", range(3))
    async def test_concurrent_writers_are_told_completely_and_in_order(self, cluster: Cluster, seed: int) -> None:
        """From any list on, its watch leads to the final state: nothing lost, nothing doubled, each in its order."""
        t = unique()
        dice = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        selection = f"t={t}"
        starts = [await list_all(cluster, SigmaRule, labels=selection)]
        plans = [[dice.choice("cpsd") for _ in range(25)] for _ in range(4)]
        names = [f"{t}-{number}" for number in range(6)]
        picks = [[dice.choice(names) for _ in plan] for plan in plans]
        numbers = itertools.count(1)

        async def write(plan: list[str], pick: list[str]) -> None:
            for verb, name in zip(plan, pick, strict=True):
                try:
                    if verb == "c":
                        await cluster.create(rule(name, labels={"t": t}))
                    elif verb == "p":
                        await cluster.patch(SigmaRule, name, {"spec": {"description": str(next(numbers))}})
                    elif verb == "s":
                        await cluster.patch_status(SigmaRule, name, {"matchCount": next(numbers)})
                    else:
                        await cluster.delete(SigmaRule, name)
                except (AlreadyExistsError, NotFoundError):
                    pass

        async def look() -> None:
            starts.extend([await list_all(cluster, SigmaRule, labels=selection) for _ in range(5)])

        async with anyio.create_task_group() as tasks:
            for plan, pick in zip(plans, picks, strict=True):
                tasks.start_soon(write, plan, pick)
            tasks.start_soon(look)
        await cluster.create(rule(f"{t}-end", labels={"t": t}))
        final, _ = await list_all(cluster, SigmaRule, labels=selection)
        wanted = {item.metadata.name: item.metadata.resource_version for item in final}
        whole: list[Notice[SigmaRule]] = []
        for items, since in starts:
            seen = await collect(cluster, since, lambda seen: told(seen)[-1][1] == f"{t}-end", labels=selection)
            assert replayed(items, seen) == wanted
            whole = whole or seen
            assert seen == whole[len(whole) - len(seen) :]
        versions = [notice.resource_version for notice in whole]
        assert len(set(versions)) == len(versions)

    # Ending

    async def test_close_ends_open_watches(self, cluster: Cluster) -> None:
        """A watch ends when the cluster is closed; closing again does nothing."""
        _, since = await list_all(cluster, SigmaRule)
        watching = anyio.Event()

        async def follow() -> None:
            async with aclosing(cluster.watch(SigmaRule, since=since)) as notices:  # type: ignore[type-var]
                async for _ in notices:
                    watching.set()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await cluster.create(rule(unique()))
                await watching.wait()
                await cluster.close()
        await cluster.close()
