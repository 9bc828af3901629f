"""Watches: completeness, order, resumption, their end."""

import itertools
import random
from contextlib import aclosing

import anyio
import pytest

from ugallu.api.core import Lease, LeaseSpec
from ugallu.api.meta import Metadata
from ugallu.api.sigma import (
    SigmaRule,
)
from ugallu.cluster.port import (
    AlreadyExistsError,
    Change,
    Cluster,
    GoneError,
    InvalidError,
    NotFoundError,
    Notice,
    list_all,
)
from ugallu.testing.contracts.cluster.abilities import Abilities
from ugallu.testing.contracts.cluster.objects import PATIENCE, collect, drain, replayed, rule, told, unique


class Watching(Abilities):
    """Watches: completeness, order, resumption, their end."""

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
