"""Merge patches of objects and of status, and what guards them."""

import uuid

import anyio
import msgspec
import pytest

from ugallu.api.meta import Condition
from ugallu.api.sigma import (
    SigmaMatch,
    SigmaRule,
    UserMatch,
)
from ugallu.cluster.port import (
    Cluster,
    InvalidError,
    OutdatedError,
    Preconditions,
)
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import PATIENCE, rule, unique


class Patching(Abilities):
    """Merge patches of objects and of status, and what guards them."""

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

    @pytest.mark.parametrize("metadata", [{"name": "another"}, {"deletionTimestamp": "2001-01-01T00:00:00Z"}], ids=str)
    async def test_a_patch_cannot_make_it_another_object(self, cluster: Cluster, metadata: dict[str, str]) -> None:
        """A name is for ever, and deletion has a verb of its own."""
        name = (await cluster.create(rule(unique()))).metadata.name
        with pytest.raises(InvalidError):
            await cluster.patch(SigmaRule, name, {"metadata": metadata})

    async def test_what_the_cluster_counts_stays_as_it_is(self, cluster: Cluster) -> None:
        """A patch of creation time or generation changes nothing."""
        made = await cluster.create(rule(unique()))
        ours = {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}
        assert await cluster.patch(SigmaRule, made.metadata.name, {"metadata": ours}) == made

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
