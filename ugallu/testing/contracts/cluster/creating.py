"""Objects come into being, as the schema lets them."""

import datetime as dt
from typing import Any

import anyio
import msgspec
import pytest

from ugallu.api.core import Lease
from ugallu.api.meta import Metadata, OwnerReference
from ugallu.api.sigma import (
    SigmaRule,
    SigmaRuleStatus,
)
from ugallu.cluster.port import (
    AlreadyExistsError,
    Cluster,
    InvalidError,
    NotFoundError,
)
from ugallu.errors import ConflictError
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import (
    NoSuchKind,
    OpenRule,
    SlimRule,
    rule,
    unique,
)


class Creating(Abilities):
    """Objects come into being, as the schema lets them."""

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
