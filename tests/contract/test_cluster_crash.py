"""What the embedded cluster acknowledged survives kill -9, whole."""

import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest

from ugallu.api.sigma import SigmaRule
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import NotFoundError, Notice, list_all
from ugallu.testing.contracts.cluster import collect, replayed, rule, told

WRITER = """
import itertools, os, sys
from pathlib import Path
import anyio
from ugallu.api.meta import OwnerReference
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.testing.contracts.cluster import rule

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def write(cluster, worker):
    for number in itertools.count():
        name = f"{sys.argv[2]}-{worker}-{number}"
        made = await cluster.create(rule(name))
        say("created", name)
        for count in (1, 2):
            await cluster.patch_status(SigmaRule, name, {"matchCount": count})
            say("counted", name, count)
        ref = OwnerReference(
            api_version=SigmaRule.kind_info.api_version, kind="SigmaRule", name=name, uid=made.metadata.uid
        )
        for child in range(3):
            await cluster.create(rule(f"{name}-child{child}").with_metadata(owner_references=(ref,)))
        say("family", name)
        if number % 2:
            await cluster.delete(SigmaRule, name)
            say("deleted", name)

async def main():
    cluster = EmbeddedCluster.open(Path(sys.argv[1]))
    async with anyio.create_task_group() as tasks:
        for worker in range(6):
            tasks.start_soon(write, cluster, worker)

anyio.run(main)
"""


def killed(state: Path, generation: int, lines: int) -> list[list[str]]:
    """Run a writer, kill it after so many acknowledgements, return all that it gave."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(state), f"g{generation}"], stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdout is not None
        seen = b""
        while seen.count(b"\n") < lines:
            got = child.stdout.read(512)
            assert got, "the writer ended by itself"
            seen += got
        child.kill()
        seen += child.stdout.read()
        assert child.wait() == -signal.SIGKILL
    return [line.split() for line in seen.decode().splitlines()]


def tells_of(name: str, seen: list[Notice[SigmaRule]]) -> bool:
    return told(seen)[-1][1] == name


async def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    """After each kill every acknowledged write is there, families are whole or gone, history leads to the present.

    A reader sees the same before any writer has come to repair.
    """
    dice = random.Random(7)
    acknowledged: list[list[str]] = []
    for generation in range(3):
        acknowledged += killed(tmp_path, generation, dice.randint(50, 400))
        reader = EmbeddedCluster.open(tmp_path, read_only=True)
        left_behind = await list_all(reader, SigmaRule)
        await reader.close()
        cluster = EmbeddedCluster.open(tmp_path)
        items, _ = await list_all(cluster, SigmaRule)
        assert left_behind[0] == items
        stored = {item.metadata.name: item for item in items}
        deleted = {name for word, name, *_ in acknowledged if word == "deleted"}
        for word, name, *rest in acknowledged:
            if name in deleted:
                assert name not in stored
            elif name in stored:
                if word == "counted":
                    assert stored[name].status.match_count >= int(rest[0])
            else:
                # Its delete may have been carried out without an answer; its family must then be gone as well.
                assert int(name.rsplit("-", 1)[1]) % 2
        families = {name for word, name, *_ in acknowledged if word == "family"}
        for name in families:
            children = [child for child in stored if child.startswith(f"{name}-child")]
            assert len(children) == (3 if name in stored else 0), name
        end = f"end-{generation}"
        made = await cluster.create(rule(end))
        seen = await collect(cluster, "1", partial(tells_of, end))
        assert replayed([], seen) == {
            **{name: item.metadata.resource_version for name, item in stored.items()},
            end: made.metadata.resource_version,
        }
        await cluster.close()


async def test_a_write_cut_off_before_its_commit_is_not_there(tmp_path: Path) -> None:
    """A process that dies inside a transaction leaves nothing of it."""
    script = """
import os, signal, sys
from pathlib import Path
from ugallu.cluster.embedded.store import Place, Store
from ugallu.cluster.port import Change
store = Store(Path(sys.argv[1]), history=100)
with store.writing.transaction():
    store.writing.put(Place("security.ugallu.io/SigmaRule", "", "half"), Change.ADDED, b"{}", None, None)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = await anyio.run_process([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    cluster = EmbeddedCluster.open(tmp_path)
    with pytest.raises(NotFoundError):
        await cluster.get(SigmaRule, "half")
    assert (await cluster.list(SigmaRule)).items == ()
    await cluster.close()
