"""Lists, pages, selectors."""

import pytest

from ugallu.api.sigma import (
    SigmaRule,
)
from ugallu.cluster.port import (
    Cluster,
    InvalidError,
    list_all,
)
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import DescribedRule, collect, rule, told, unique


class Listing(Abilities):
    """Lists, pages, selectors."""

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
