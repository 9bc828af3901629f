"""The embedded cluster passes the battery: on disk, and in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import Cluster
from ugallu.testing.contracts.cluster import ClusterContract, rule, unique

HISTORY = 600


class TestEmbedded(ClusterContract):
    bookmark_within = 1.0

    @pytest.fixture(params=["disk", "memory"])
    async def cluster(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
        if request.param == "disk":
            cluster = EmbeddedCluster.open(tmp_path / "state", history=HISTORY, bookmark_seconds=0.05)
        else:
            cluster = EmbeddedCluster.in_memory(history=HISTORY, bookmark_seconds=0.05)
        yield cluster
        await cluster.close()

    async def forget_history(self, cluster: Cluster) -> bool:
        made = await cluster.create(rule(unique("busy")))
        for number in range(2 * HISTORY):
            await cluster.patch_status(type(made), made.metadata.name, {"matchCount": number + 1})
        return True
