"""The shapes of a plug-in: an Operator declares, and builds Parts. Detectors, sources and reconcilers are Protocols."""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from ugallu.api.catalog import EventType
from ugallu.api.meta import Config, Resource
from ugallu.api.observation import Checkpoint, Finding, Observation
from ugallu.bus.port import Publish
from ugallu.cluster.port import Key
from ugallu.errors import PermanentError
from ugallu.operator.platform import Platform

C = TypeVar("C", bound=Config)
O_contra = TypeVar("O_contra", bound=Observation, contravariant=True)
R_contra = TypeVar("R_contra", bound=Resource, contravariant=True)

__all__ = [
    "After", "BatchDetector", "Detector", "Grant", "HostPath", "Keeps", "Namespace", "Operator", "Parts", "Placement",
    "Port", "Publish", "Reconciler", "Service", "Source", "Workload",
]  # fmt: skip


class Source(Protocol):
    """Turns the outside world into observations."""

    @property
    def name(self) -> str:
        """Stable over restarts, unique in the process; checkpoints are kept under it."""
        ...

    @property
    def observes(self) -> type[Observation]:
        """The type of its observations."""
        ...

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish batches from `start` (None: from the source's own beginning) until the stream ends."""
        ...


class Detector(Protocol[O_contra]):
    """Looks at observations one by one: synchronous, no I/O, no clock but the observation's own time."""

    observes: type[Any]

    def inspect(self, observation: O_contra, /) -> Iterable[Finding]:
        """Return what this observation proves; an error loses this one observation for this detector, counted."""
        ...


@runtime_checkable
class BatchDetector(Protocol[O_contra]):
    """A detector with a faster road for a whole batch; yields (index of the observation, finding)."""

    def inspect_batch(self, observations: Sequence[O_contra], /) -> Iterable[tuple[int, Finding]]:
        """As `inspect` on each observation in turn."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """A detector with windows or books that a restart must not lose."""

    def snapshot(self) -> bytes:
        """Return everything that later verdicts depend on, books included; small."""
        ...

    def restore(self, state: bytes, /) -> None:
        """Become what `snapshot` saw; raises `PermanentError` for a state it cannot read."""
        ...

    def books(self) -> Mapping[str, int]:
        """Return cumulative counts: `matched`, and `dropped.<reason>` for matches that became no finding."""
        ...


class After(NamedTuple):
    """Look at this object again in so many seconds, whatever happens."""

    seconds: float


class Reconciler(Protocol[R_contra]):
    """Level-based, one object at a time.

    `TransientError` and `ConflictError` are retried with backoff, `RefusedError` with ever more patience and without
    anybody waiting for it; `PermanentError` is logged and waits for the object's next change.
    """

    watches: type[Any]

    async def reconcile(self, resource: R_contra, /) -> After | None:
        """Bring the world nearer to what the object asks."""
        ...

    async def gone(self, key: Key, /) -> None:
        """The object was deleted."""
        ...


class Service(Protocol):
    """Anything else that runs as long as its operator; restarted with backoff when it raises."""

    @property
    def name(self) -> str:
        """For logs and probes."""
        ...

    async def run(self) -> None:
        """Run until cancelled, or return when there is nothing left to do."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What an operator consists of; rebuilt whole when its config changes.

    `idle` tells whether the operator has finished everything that its inputs have brought so far: a replay ends only
    when every operator is idle. `close` runs once, in a worker thread, after all parts have ended.
    """

    sources: Sequence[Source] = ()
    detectors: Sequence[Detector[Any]] = ()
    reconcilers: Sequence[Reconciler[Any]] = ()
    services: Sequence[Service] = ()
    idle: Callable[[], bool] = lambda: True
    ready: Callable[[], str] = lambda: ""
    """What keeps the operator from being ready, empty when it is."""
    close: Callable[[], None] = lambda: None


class Placement(enum.Enum):
    """Where an operator's parts run."""

    ONE_LEADER = "one leader"
    EVERY_NODE = "every node"
    EVERY_REPLICA = "every replica"


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing the operator may do; RBAC is generated from these. Empty `names` means any name."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    namespace: str = ""
    urls: tuple[str, ...] = ()
    """Paths of the API server that are no objects (`/metrics`), instead of resources."""


class Namespace(enum.StrEnum):
    """Where an operator's Pods run: what they may do to their node decides."""

    SYSTEM = "ugallu-system"
    """Pod Security `restricted`."""
    PRIVILEGED = "ugallu-system-privileged"
    """Pod Security `privileged`: host paths, host processes."""


@dataclass(frozen=True, slots=True)
class HostPath:
    """A directory of the node that the operator reads; mounted read-only at the same path."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Port:
    """A port that others call, behind a Service named `ugallu-<operator>-<name>` at `service` (0: no Service)."""

    name: str
    number: int
    service: int = 0
    headless: bool = False
    """Whether the Service's name leads to every Pod and not to one of them, for readers that want all; ours alone."""


@dataclass(frozen=True, slots=True)
class TokenVolume:
    """A further ServiceAccount token, for somebody else than the API server: /var/run/secrets/ugallu/<name>/token."""

    name: str
    audience: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The Pods of one operator, as far as they differ from everybody's: restricted, read-only, one state volume."""

    namespace: Namespace = Namespace.SYSTEM
    replicas: int = 1
    """More than one where a hot standby or several active replicas help; a Lease keeps one leader."""
    ports: tuple[Port, ...] = ()
    host_paths: tuple[HostPath, ...] = ()
    secrets: tuple[str, ...] = ()
    """Secrets of the own namespace that are mounted under /etc/ugallu/secrets/<name>, each optional."""
    tokens: tuple[TokenVolume, ...] = ()
    config_maps: tuple[str, ...] = ()
    """Empty ConfigMaps to ship beside it, for an operator that writes them and may make none."""
    arguments: tuple[str, ...] = ()
    """Flags of `ugallu run` besides `--enable`."""
    reaches: tuple[int, ...] = ()
    """TCP ports that it calls, wherever they are, besides the API server's."""
    memory: str = "128Mi"
    """Limit; the request is half of it."""
    durable: bool = False
    """Whether the state must outlive the Pod (a PersistentVolumeClaim) and not only its restarts."""


class Operator(Generic[C]):
    """A plug-in: what it is called, how it is configured, what it may emit and touch, and how to build it."""

    name: ClassVar[str]
    config: type[C]
    config_kind: ClassVar[type[Resource] | None] = None
    """The CR whose object `default` holds the config; None: the operator has no CR and takes its defaults."""
    emits: ClassVar[tuple[EventType, ...]] = ()
    grants: ClassVar[tuple[Grant, ...]] = ()
    placement: ClassVar[Placement] = Placement.EVERY_REPLICA
    needs_pods: ClassVar[bool] = False
    """Refused, with a clear word, where no Pods run (the embedded cluster)."""
    workload: ClassVar[Workload] = Workload()
    shipped: ClassVar[bool] = True
    """Whether the overlays run it; its component is there for those who want it in any case."""

    def build(self, config: C, platform: Platform) -> Parts:
        """Return the parts for this config; raises `PermanentError` for a config that cannot work."""
        raise NotImplementedError

    def resources(self, paths: Sequence[Path]) -> Sequence[Resource]:
        """Return the objects that these files declare for this operator (`replay --rules`).

        Raises `PermanentError` with file, line and fix for one that cannot be read.
        """
        raise PermanentError(f"{self.name} reads no files", where=", ".join(map(str, paths)))

    @classmethod
    def packs(cls) -> Mapping[str, Sequence[Resource]]:
        """Return the objects that an installation may bring along, by the name of the component that does.

        Users patch and never edit them, so each says in a label which version it is.
        """
        return {}

    @classmethod
    def pages(cls) -> Mapping[str, str]:
        """Return the pages that are made from what the operator brings along, by their paths in docs/."""
        return {}
