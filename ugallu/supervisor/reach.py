"""From settings to a Kubernetes cluster that answers: credentials, the cluster's own id, and our namespace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ugallu.api import core
from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.operator.contract import Namespace
from ugallu.settings import Settings, inherited

if TYPE_CHECKING:
    from ugallu.cluster.kubernetes.auth import Access
    from ugallu.cluster.kubernetes.client import KubernetesCluster

NAMED_BY = "kube-system"
"""The namespace whose uid names a cluster: every cluster has it, and nobody can make it anew."""


class Reached(NamedTuple):
    """A cluster that answered."""

    cluster: "KubernetesCluster"
    cluster_id: str
    namespace: str


def access(settings: Settings) -> "Access":
    """Return how to reach the cluster that the settings mean; raises `PermanentError` when they mean none."""
    from ugallu.cluster.kubernetes import auth

    where = settings.kubernetes
    if where.kubeconfig:
        return auth.from_kubeconfig(where.kubeconfig, context=where.context, environ=inherited())
    if not where.server:
        raise PermanentError(
            "no Kubernetes cluster is known here",
            where="--cluster kubernetes",
            fix="pass --kubeconfig F, or run in a Pod",
        )
    return auth.in_cluster(where.server, Path(where.account))


async def connect(settings: Settings, *, clock: Clock, metrics: Metrics, log: Logger) -> "KubernetesCluster":
    """Return the cluster that the settings mean, nothing asked yet; raises as `access`."""
    from ugallu.cluster.kubernetes.client import KubernetesCluster

    return await KubernetesCluster.open(access(settings), clock=clock, metrics=metrics, log=log)


@asynccontextmanager
async def reach(settings: Settings, *, clock: Clock, metrics: Metrics, log: Logger) -> AsyncIterator[Reached]:
    """Connect, and ask the cluster who it is.

    Raises `UnavailableError` when it does not answer, `ForbiddenError` when it does not know us or our rights miss
    the one question, `PermanentError` for credentials that cannot work.
    """
    cluster = await connect(settings, clock=clock, metrics=metrics, log=log)
    try:
        cluster_id = settings.cluster_id or (await cluster.get(core.Namespace, NAMED_BY)).metadata.uid
        yield Reached(cluster, cluster_id, namespace_of(settings))
    finally:
        await cluster.close()


def namespace_of(settings: Settings) -> str:
    """Return the namespace of this process: the setting, else the Pod's own, else the one it is installed in."""
    where = settings.kubernetes
    if where.namespace:
        return where.namespace
    own = Path(where.account) / "namespace"
    if not where.kubeconfig and own.exists():
        return own.read_text(encoding="utf-8").strip()
    return Namespace.SYSTEM.value
