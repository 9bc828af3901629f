"""A state directory seen from beside: what commands that only look may open while another process writes."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ugallu.cli import flags
from ugallu.cluster.port import Cluster
from ugallu.errors import PermanentError


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add `--state`."""
    flags.add(parser, ("state",))


def state_of(args: argparse.Namespace) -> Path:
    """Return the directory that the flag or `UGALLU_STATE` names; raises `PermanentError` when there is none."""
    from ugallu.settings import load

    state = load(flags.overrides(args)).state_dir
    if not state.is_dir():
        raise PermanentError("no such directory", where=str(state), fix="`ugallu run --state DIR` makes one")
    return state


@asynccontextmanager
async def reading(state: Path) -> AsyncIterator[Cluster]:
    """Open the embedded cluster of a state directory for reading, beside its writer."""
    from ugallu.cluster.embedded.cluster import EmbeddedCluster

    cluster = EmbeddedCluster.open(state, read_only=True)
    try:
        yield cluster
    finally:
        await cluster.close()
