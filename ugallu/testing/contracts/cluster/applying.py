"""Server-side apply."""

import msgspec

from ugallu.api.sigma import (
    SigmaMatch,
    SigmaRule,
    SigmaRuleStatus,
    UserMatch,
)
from ugallu.cluster.port import (
    Cluster,
)
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import rule, unique


class Applying(Abilities):
    """Server-side apply."""

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
        await cluster.apply(rule(name, description="by a"), manager="a")
        await cluster.apply(rule(name, description="by b"), manager="b")
        gone = await cluster.apply(rule(name), manager="b")
        assert gone.spec.description == ""

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
