"""What commands that only look may open: the cluster beside whoever writes to it, and the state directory."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.cli import flags
from ugallu.cluster.port import Cluster
from ugallu.errors import PermanentError

if TYPE_CHECKING:
    from ugallu.settings import Settings

PLACE = (
    "state", "cluster", "kubernetes.kubeconfig", "kubernetes.context", "kubernetes.server", "kubernetes.account",
)  # fmt: skip
"""The settings that say where objects are."""


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where objects are."""
    flags.add(parser, PLACE)


def settings_of(args: argparse.Namespace) -> "Settings":
    """Return the settings that the flags and `UGALLU_*` make."""
    from ugallu.settings import load

    return load(flags.overrides(args))


def state_of(settings: "Settings") -> Path:
    """Return the state directory; raises `PermanentError` when there is none."""
    state = settings.state_dir
    if not state.is_dir():
        raise PermanentError("no such directory", where=str(state), fix="`ugallu run --state DIR` makes one")
    return state


@asynccontextmanager
async def looking(settings: "Settings") -> AsyncIterator[Cluster]:
    """Open the cluster that the settings mean, for reading."""
    if not settings.on_kubernetes:
        async with reading(state_of(settings)) as embedded:
            yield embedded
        return
    from ugallu.clock import SystemClock
    from ugallu.logs import logger
    from ugallu.metrics import Metrics
    from ugallu.supervisor.reach import connect

    cluster = await connect(settings, clock=SystemClock(), metrics=Metrics(), log=logger(settings.log))
    try:
        yield cluster
    finally:
        await cluster.close()


@asynccontextmanager
async def reading(state: Path) -> AsyncIterator[Cluster]:
    """Open the embedded cluster of a state directory for reading, beside its writer."""
    from ugallu.cluster.embedded.cluster import EmbeddedCluster

    cluster = EmbeddedCluster.open(state, read_only=True)
    try:
        yield cluster
    finally:
        await cluster.close()
