"""`Platform`: everything an operator may use, handed to its `build`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ugallu.api.event import ClusterIdentity
from ugallu.clock import Clock
from ugallu.cluster.port import Cache, Cluster, Server
from ugallu.emit.ledger import Accounts
from ugallu.emit.port import Emitter
from ugallu.metrics import Metrics
from ugallu.operator.shared import Shared
from ugallu.settings import Settings


@dataclass(frozen=True, slots=True)
class Platform:
    """What the supervisor lends to one operator; the emitter is bound to it."""

    identity: ClusterIdentity
    cluster: Cluster
    cache: Cache
    emitter: Emitter
    clock: Clock
    log: structlog.typing.FilteringBoundLogger
    metrics: Metrics
    settings: Settings
    namespace: str
    """Where this process lives: its config objects, Secrets and Leases."""
    state: Path
    """A directory of this process alone, for what must survive a restart and belongs in no object."""
    shared: Shared = field(default_factory=Shared)
    """What only one of this process can open, and others use as well: the evidence in `state`."""
    accounts: Callable[[], Accounts] = Accounts
    """The books of this process as they stand."""
    leads: Callable[[], bool] = lambda: True
    """Whether this process may do what only one may, asked right before it is done; writes ask by themselves."""
    server: Server | None = None
    """The server behind the cluster, None where the cluster is in this process."""
