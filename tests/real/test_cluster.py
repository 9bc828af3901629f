"""A real API server passes the battery that the embedded cluster passes, unchanged."""

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.rig.cluster import ControlPlane
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.kubernetes import auth
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.port import Cluster, UnavailableError
from ugallu.testing.contracts.cluster import ClusterContract, rule, unique

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def served(control_plane: ControlPlane) -> ControlPlane:
    """Return a control plane, whose controllers collect garbage, with every kind of ours."""
    control_plane.serve_kinds()
    return control_plane


class TestKubernetes(ClusterContract):
    # The first one comes after one to two minutes; that a watch resumes from one, test_access proves with a stream's.
    bookmark_within = 0.0

    @pytest.fixture
    async def cluster(self, served: ControlPlane) -> AsyncIterator[Cluster]:
        cluster = await KubernetesCluster.open(auth.from_kubeconfig(served.kubeconfig))
        yield cluster
        await cluster.close()

    @pytest.fixture(autouse=True)
    def _api(self, served: ControlPlane) -> None:
        self.api = served

    async def forget_history(self, cluster: Cluster) -> bool:
        await cluster.create(rule(unique("busy")))
        self.api.etcd.compact()
        # The API server remembers on its own what the store has forgotten, until it starts anew.
        self.api.restart()
        with anyio.fail_after(30):
            # Ready comes before the kinds that were added to it.
            while True:
                try:
                    await cluster.list(SigmaRule, limit=1)
                except UnavailableError:
                    await anyio.sleep(0.1)
                else:
                    return True
