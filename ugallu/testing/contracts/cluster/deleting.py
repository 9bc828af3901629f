"""Deletion, finalizers, garbage collection."""

import pytest

from ugallu.api.meta import OwnerReference
from ugallu.api.sigma import (
    SigmaRule,
)
from ugallu.cluster.port import (
    Change,
    Cluster,
    InvalidError,
    NotFoundError,
    list_all,
)
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import collect, rule, told, unique


class Deleting(Abilities):
    """Deletion, finalizers, garbage collection."""

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

    async def test_an_owner_named_later_counts(self, cluster: Cluster) -> None:
        """An owner that a patch adds takes the object along, one that a patch removed does not."""
        if not self.collects_garbage:
            pytest.skip("this cluster runs no garbage collector")
        label = unique()
        owner = await cluster.create(rule(unique()))
        ref = {
            "apiVersion": SigmaRule.kind_info.api_version,
            "kind": "SigmaRule",
            "name": owner.metadata.name,
            "uid": owner.metadata.uid,
        }
        adopted = await cluster.create(rule(unique(), labels={"t": label}))
        freed = await cluster.create(rule(unique(), labels={"t": label}))
        for name in (adopted.metadata.name, freed.metadata.name):
            await cluster.patch(SigmaRule, name, {"metadata": {"ownerReferences": [ref]}})
        await cluster.patch(SigmaRule, freed.metadata.name, {"metadata": {"ownerReferences": None}})
        _, since = await list_all(cluster, SigmaRule, labels=f"t={label}")
        await cluster.delete(SigmaRule, owner.metadata.name)
        seen = await collect(cluster, since, lambda seen: len(seen) == 1, labels=f"t={label}")
        assert told(seen) == [("DELETED", adopted.metadata.name)]
        left, _ = await list_all(cluster, SigmaRule, labels=f"t={label}")
        assert [item.metadata.name for item in left] == [freed.metadata.name]
