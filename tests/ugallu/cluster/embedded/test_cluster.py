"""What is particular to the embedded cluster: its directory, its readers, its limits."""

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest

from ugallu.api.meta import Kind, Metadata, OwnerReference, Resource, Wire, encode
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.embedded.lock import held_by
from ugallu.cluster.embedded.store import Place, Writing
from ugallu.cluster.port import (
    Change,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    list_all,
)
from ugallu.errors import PermanentError
from ugallu.testing.clock import settled
from ugallu.testing.contracts.cluster import SlimRule, rule


class BoxSpec(Wire, frozen=True, kw_only=True):
    colour: str = ""
    open: bool = False
    size: int = 0


class Box(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Kind(
        "Box", "boxes", namespaced=True, selectable=("spec.colour", "spec.open", "spec.size")
    )
    spec: BoxSpec = BoxSpec()


class OpenBox(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Box.kind_info
    spec: dict[str, object] = {}


def box(name: str, **spec: object) -> Box:
    return Box(metadata=Metadata(name=name, namespace="a"), spec=BoxSpec(**spec))  # type: ignore[arg-type]


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    cluster = EmbeddedCluster.in_memory(history=100)
    yield cluster
    await cluster.close()


async def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    """A directory in use says who uses it; once closed it may be opened again, with everything in it."""
    assert held_by(tmp_path / "state") == ""
    first = EmbeddedCluster.open(tmp_path / "state")
    assert held_by(tmp_path / "state").startswith(f"pid {os.getpid()} ")
    made = await first.create(rule("a"))
    with pytest.raises(PermanentError, match=r"in use by pid \d+ .*another --state"):
        EmbeddedCluster.open(tmp_path / "state")
    await first.close()
    assert held_by(tmp_path / "state") == ""
    second = EmbeddedCluster.open(tmp_path / "state")
    assert await second.get(SigmaRule, "a") == made
    await second.close()


async def test_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else on the machine reads what was recorded."""
    cluster = EmbeddedCluster.open(tmp_path / "state")
    await cluster.create(rule("a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    await cluster.close()


async def test_a_reader_sees_what_the_writer_does(tmp_path: Path) -> None:
    """Beside the writer a reader lists, and a watch follows; it cannot write."""
    writer = EmbeddedCluster.open(tmp_path)
    await writer.create(rule("a"))
    reader = EmbeddedCluster.open(tmp_path, read_only=True, poll_seconds=0.005, bookmark_seconds=0.02)
    items, since = await list_all(reader, SigmaRule)
    assert [item.metadata.name for item in items] == ["a"]
    with pytest.raises(ForbiddenError):
        await reader.create(rule("b"))
    changes: list[str] = []

    async def follow() -> None:
        async with aclosing(reader.watch(SigmaRule, since=since)) as notices:
            async for notice in notices:
                changes.append(notice.change)
                if Change.DELETED in changes:
                    break

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await writer.create(rule("b"))
            await writer.delete(SigmaRule, "b")
    assert [change for change in changes if change != Change.BOOKMARK] == ["ADDED", "DELETED"]
    await writer.close()
    assert [item.metadata.name for item in (await reader.list(SigmaRule)).items] == ["a"]
    await reader.close()


async def test_a_reader_works_without_a_writer(tmp_path: Path) -> None:
    """State at rest can be read; where there is none, that is said, and nothing is made."""
    with pytest.raises(PermanentError, match="no cluster state"):
        EmbeddedCluster.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    writer = EmbeddedCluster.open(tmp_path)
    await writer.create(rule("a"))
    await writer.close()
    reader = EmbeddedCluster.open(tmp_path, read_only=True)
    assert (await reader.get(SigmaRule, "a")).metadata.name == "a"
    await reader.close()
    with pytest.raises(UnavailableError):
        await reader.get(SigmaRule, "a")


async def test_state_of_another_format_is_refused(tmp_path: Path) -> None:
    """A newer program's state is not touched."""
    cluster = EmbeddedCluster.open(tmp_path)
    cluster._store.writing._run("PRAGMA user_version = 99")  # type: ignore[union-attr]
    await cluster.close()
    with pytest.raises(PermanentError, match="format 99"):
        EmbeddedCluster.open(tmp_path)
    with pytest.raises(PermanentError, match="format 99"):
        EmbeddedCluster.open(tmp_path, read_only=True)


async def test_what_is_no_database_is_said_to_be(tmp_path: Path) -> None:
    """A broken file is an error that names the way out, and the lock is free again."""
    (tmp_path / "cluster.db").write_bytes(b"not a database, whatever its name says" * 100)
    for _ in range(2):
        with pytest.raises(PermanentError, match="broken"):
            EmbeddedCluster.open(tmp_path)


async def test_history_bounds_the_file(tmp_path: Path) -> None:
    """Only the newest revisions are kept; a restart remembers where history begins."""
    cluster = EmbeddedCluster.open(tmp_path, history=50)
    await cluster.create(rule("a"))
    for number in range(500):
        await cluster.patch_status(SigmaRule, "a", {"matchCount": number + 1})
    assert cluster._reading._all("SELECT COUNT(*) FROM versions")[0][0] < 50 + 50
    await cluster.close()
    cluster = EmbeddedCluster.open(tmp_path, history=50)
    with pytest.raises(GoneError):
        await anext(cluster.watch(SigmaRule, since="2"))
    await cluster.close()


async def test_a_quiet_watch_outlives_a_busy_history(cluster: EmbeddedCluster) -> None:
    """A watch on a kind that does not change is not cut off by changes of other kinds."""
    _, since = await list_all(cluster, SigmaRule)
    heard = anyio.Event()

    async def follow() -> None:
        async with aclosing(cluster.watch(SigmaRule, since=since)) as notices:
            async for notice in notices:
                if notice.object is not None and notice.object.metadata.name == "late":
                    heard.set()
                    return

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await cluster.create(rule("early"))
            await settled()
            for number in range(500):
                await cluster.create(box(f"b{number}"))
            await cluster.create(rule("late"))
            await heard.wait()


async def test_a_quiet_watch_gets_its_bookmark_behind_a_busy_history() -> None:
    """What filled history meanwhile was of other kinds: the watch hears how far it has come, and is not cut off."""
    cluster = EmbeddedCluster.in_memory(history=100, bookmark_seconds=0.3)
    since = (await cluster.list(SigmaRule)).resource_version
    marks: list[int] = []

    async def follow() -> None:
        async with aclosing(cluster.watch(SigmaRule, since=since)) as notices:
            async for notice in notices:
                marks.append(int(notice.resource_version))
                if marks[-1] > 400:
                    break

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await settled()
            for number in range(500):
                await cluster.create(box(f"b{number}"))
    assert marks
    await cluster.close()


async def test_a_version_of_another_state_is_gone(cluster: EmbeddedCluster) -> None:
    """Who comes with a version from before the state was removed must list again."""
    with pytest.raises(GoneError):
        await anext(cluster.watch(SigmaRule, since="123456"))


async def test_declared_fields_can_be_selected(cluster: EmbeddedCluster) -> None:
    """A kind's selectable fields work in lists and watches: text, numbers and booleans as kubectl writes them."""
    since = (await cluster.list(Box)).resource_version
    await cluster.create(box("red", colour="red", open=True, size=3))
    await cluster.create(box("green", colour="green"))

    async def found(fields: str) -> list[str]:
        return [item.metadata.name for item in (await cluster.list(Box, fields=fields)).items]

    assert await found("spec.colour=red") == ["red"]
    assert await found("spec.colour!=red") == ["green"]
    assert await found("spec.open=true,spec.size=3") == ["red"]
    assert await found("spec.open=") == ["green"]
    await cluster.patch(Box, "red", {"spec": {"colour": "blue"}}, "a")
    watch = cluster.watch(Box, since=since, fields="spec.colour=red")
    assert [(await anext(watch)).change for _ in range(2)] == [Change.ADDED, Change.DELETED]


async def test_a_kind_without_a_schema_keeps_what_others_wrote(cluster: EmbeddedCluster) -> None:
    """Fields that this writer's Struct does not know stay; the ones that it knows must fit it."""
    await cluster.create(OpenBox(metadata=Metadata(name="a", namespace="a"), spec={"lid": "oak", "size": 1}))
    patched = await cluster.patch(Box, "a", {"spec": {"size": 2}}, "a")
    assert patched.spec.size == 2
    assert (await cluster.get(OpenBox, "a", "a")).spec == {"lid": "oak", "size": 2}
    with pytest.raises(InvalidError, match="size"):
        await cluster.patch(Box, "a", {"spec": {"size": "huge"}}, "a")


async def test_true_is_not_one(cluster: EmbeddedCluster) -> None:
    """A change from 1 to true is a change, though Python calls them equal."""
    made = await cluster.create(OpenBox(metadata=Metadata(name="a", namespace="a"), spec={"free": 1}))
    changed = await cluster.patch(OpenBox, "a", {"spec": {"free": True}}, "a")
    assert changed.spec["free"] is True
    assert changed.metadata.generation == made.metadata.generation + 1


async def test_what_etcd_would_refuse_is_refused(cluster: EmbeddedCluster) -> None:
    """An object of more than 1.5 MiB does not get in, nor does one that cannot be JSON."""
    await cluster.create(box("fits", colour="x" * (3 << 18)))
    with pytest.raises(InvalidError, match="bytes"):
        await cluster.create(box("large", colour="x" * (3 << 19)))
    for levels in (150, 950, 100_000):
        deep: object = 1
        for _ in range(levels):
            deep = {"d": deep}
        with pytest.raises(InvalidError):
            await cluster.patch(OpenBox, "fits", {"spec": {"deep": deep}}, "a")
    with pytest.raises(InvalidError):
        await cluster.create(box("surrogate", colour="\ud800"))
    assert len((await cluster.list(Box)).items) == 1


async def test_an_owner_must_be_the_very_object(cluster: EmbeddedCluster) -> None:
    """An owner of the same name but another uid is no owner; one of the own namespace or without one is."""

    async def born(name: str, uid: str, owner: Resource, namespace: str = "a") -> bool:
        info = type(owner).kind_info
        ref = OwnerReference(api_version=info.api_version, kind=info.name, name=owner.metadata.name, uid=uid)
        await cluster.create(box(name).with_metadata(owner_references=(ref,), namespace=namespace))
        try:
            await cluster.get(Box, name, namespace)
        except NotFoundError:
            return False
        return True

    free = await cluster.create(rule("free"))
    near = await cluster.create(box("near"))
    assert await born("b", free.metadata.uid, free)
    assert not await born("c", "another-uid", free)
    assert await born("d", near.metadata.uid, near)
    assert not await born("e", near.metadata.uid, near, namespace="other")
    await cluster.patch(Box, "d", {"metadata": {"ownerReferences": None}}, "a")
    assert cluster._reading.dependents(near.metadata.uid) == []


async def test_a_dependent_with_finalizers_waits_for_them(cluster: EmbeddedCluster) -> None:
    """Collection marks what is held, and goes on behind it once it is let go."""
    owner = await cluster.create(rule("owner"))
    info = SigmaRule.kind_info

    def ref(of: SigmaRule) -> tuple[OwnerReference, ...]:
        name, uid = of.metadata.name, of.metadata.uid
        return (OwnerReference(api_version=info.api_version, kind=info.name, name=name, uid=uid),)

    held = await cluster.create(rule("held").with_metadata(owner_references=ref(owner), finalizers=("ugallu.io/x",)))
    await cluster.create(rule("below").with_metadata(owner_references=ref(held)))
    await cluster.delete(SigmaRule, "owner")
    marked = await cluster.get(SigmaRule, "held")
    assert marked.metadata.deletion_timestamp is not None
    assert (await cluster.get(SigmaRule, "below")).metadata.deletion_timestamp is None
    await cluster.patch(SigmaRule, "held", {"metadata": {"finalizers": []}})
    assert (await cluster.list(SigmaRule)).items == ()


async def test_a_cancelled_write_harms_no_other(tmp_path: Path) -> None:
    """Writers that share a commit do not depend on one that gives up."""
    cluster = EmbeddedCluster.open(tmp_path)
    for round_ in range(20):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                if number % 3 == round_ % 3:

                    async def give_up(name: str) -> None:
                        with anyio.move_on_after(0):
                            await cluster.create(rule(name))

                    tasks.start_soon(give_up, f"gone-{round_}-{number}")
                else:
                    tasks.start_soon(cluster.create, rule(f"r-{round_}-{number}"))
    items, _ = await list_all(cluster, SigmaRule)
    kept = {item.metadata.name for item in items if item.metadata.name.startswith("r-")}
    assert len(kept) == sum(number % 3 != round_ % 3 for round_ in range(20) for number in range(10))
    await cluster.close()


async def test_a_write_that_asyncio_cancels_harms_no_other(tmp_path: Path) -> None:
    """A task cancelled past anyio's shields (an interrupt) leaves its commit to finish before the next begins."""
    cluster = EmbeddedCluster.open(tmp_path)
    slim = encode(SlimRule(metadata=Metadata(name="slow")))
    begun, go = threading.Event(), threading.Event()
    writers: list[asyncio.Task[Any]] = []

    def slow(tx: Writing) -> None:
        tx.put(Place("security.ugallu.io/SigmaRule", "", "slow"), Change.ADDED, slim, None, None)
        begun.set()
        assert go.wait(10)

    async def interrupted() -> None:
        task = asyncio.current_task()
        assert task is not None
        writers.append(task)
        with contextlib.suppress(asyncio.CancelledError):
            await cluster._write(slow)

    since = (await cluster.list(SigmaRule)).resource_version
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupted)
        await anyio.to_thread.run_sync(begun.wait)
        writers[0].cancel()
        tasks.start_soon(cluster.create, rule("next"))
        await settled()
        go.set()
    watch = cluster.watch(SlimRule, since=since)
    assert [(await anext(watch)).change for _ in range(2)] == [Change.ADDED, Change.ADDED]
    await watch.aclose()
    await cluster.close()
    reader = EmbeddedCluster.open(tmp_path, read_only=True)
    assert [item.metadata.name for item in (await reader.list(SlimRule)).items] == ["next", "slow"]
    await reader.close()


async def test_a_busy_kind_does_not_keep_bookmarks_from_a_selection(cluster: EmbeddedCluster) -> None:
    """A watch whose selection is quiet hears how far history has come, however much happens outside of it."""
    quiet = EmbeddedCluster.in_memory(history=50, bookmark_seconds=0.02)
    marks: list[str] = []

    async def follow() -> None:
        async with aclosing(quiet.watch(SigmaRule, since="1", labels="mine")) as notices:
            async for notice in notices:
                assert notice.change is Change.BOOKMARK
                marks.append(notice.resource_version)
                if len(marks) == 3:
                    break

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            number = 0
            while len(marks) < 3:
                number += 1
                await quiet.create(rule(f"other-{number}"))
    assert number > 3
    assert int(marks[0]) < int(marks[1]) < int(marks[2])
    await quiet.close()


async def test_closing_amid_a_notice_ends_the_watch(cluster: EmbeddedCluster) -> None:
    """A consumer that closes the cluster while it holds a notice gets no error, but the end."""
    for number in range(3):
        await cluster.create(rule(f"r{number}", labels={"a": "b"}))
    seen = 0
    async for _ in cluster.watch(SigmaRule, since="1", labels="a=b"):
        seen += 1
        await cluster.close()
    assert seen == 1


async def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    """When the disk refuses, every writer of the commit hears of it, nothing is half there, and later writes succeed."""
    cluster = EmbeddedCluster.open(tmp_path)
    await cluster.create(rule("before"))
    assert cluster._store.writing is not None
    pages = cluster._store.writing._all("PRAGMA page_count")[0][0]
    cluster._store.writing._all(f"PRAGMA max_page_count = {pages + 4}")
    errors: list[UnavailableError] = []

    async def fill(number: int) -> None:
        try:
            await cluster.create(rule(f"big-{number}", references=("x" * 20_000,)))
        except UnavailableError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(fill, number)
    assert len(errors) >= 4
    assert "full" in str(errors[0])
    cluster._store.writing._all("PRAGMA max_page_count = 1000000")
    after = await cluster.create(rule("after"))
    items, _ = await list_all(cluster, SigmaRule)
    assert len(items) == 2 + 5 - len(errors)
    assert await cluster.get(SigmaRule, "after") == after
    await cluster.close()


async def test_a_directory_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    """A file where the state should be is an error with the path and a way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match=r"file.*cannot be opened.*--state"):
        EmbeddedCluster.open(tmp_path / "file")


async def test_limits_of_a_list(cluster: EmbeddedCluster) -> None:
    """Without a limit all comes in one page; with a selection pages are full all the same."""
    for number in range(1100):
        await cluster.create(box(f"b{number:04}", colour="red" if number % 100 == 0 else ""))
    assert len((await cluster.list(Box, limit=0)).items) == 1100
    assert len((await cluster.list(Box, limit=-1)).items) == 1100
    first = await cluster.list(Box, fields="spec.colour=red", limit=7)
    assert len(first.items) == 7
    rest = await cluster.list(Box, fields="spec.colour=red", limit=7, continue_token=first.continue_token)
    assert len(rest.items) == 4
    assert not rest.continue_token
