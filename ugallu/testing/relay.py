"""An event bus between two processes, in one: a hub that serves, a relay that reads, a wire between them to cut."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import structlog

from ugallu.api.audit import AuditRecord
from ugallu.api.detection import BUS_TLS, AuditDetectionConsumer, AuditDetectionEventBus
from ugallu.api.k8s import SecretKeySelector
from ugallu.bus.bus import LocalBus
from ugallu.bus.hub import Hub
from ugallu.clock import Clock, SystemClock
from ugallu.metrics import Metrics
from ugallu.settings import RelaySettings
from ugallu.sources.relay import AuditRelay
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.testing.wire import Wire, wired

if TYPE_CHECKING:
    from ugallu.api.observation import Checkpoint

TOKEN = "bus-token"  # noqa: S105 - the name of a Secret
QUIET = structlog.wrap_logger(structlog.ReturnLogger())
CONSUMER = "tests"


class Secrets:
    """Secrets as the kubelet mounts them: a folder each."""

    def __init__(self, folder: Path, certificate: Path, key: Path, ca: Path) -> None:
        """`certificate` is the server's, for 127.0.0.1; `ca` vouches for it."""
        self.folder = folder
        self.ca = ca
        self.put(BUS_TLS, "tls.crt", certificate.read_bytes())
        self.put(BUS_TLS, "tls.key", key.read_bytes())
        self.put(TOKEN, "token", b"s3cret\n")

    def put(self, name: str, key: str, content: bytes) -> Path:
        """Write one key of a Secret, as a whole."""
        path = self.folder / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
        return path

    @property
    def token(self) -> Path:
        """The file with the token."""
        return self.folder / TOKEN / "token"


def bus_settings(**changes: Any) -> AuditDetectionEventBus:  # noqa: ANN401 - fields of the Struct
    """Return settings of a bus on a free port, with the token of `Secrets`."""
    secret = SecretKeySelector(name=TOKEN, key="token")
    return AuditDetectionEventBus(**{"listen_addr": "127.0.0.1:0", "token_secret": secret, **changes})


def make_hub(secrets: Path, *, clock: Clock, metrics: Metrics | None = None) -> Hub:
    """Return a hub that changes nothing of what it sends."""
    return Hub(
        lambda body, _: body,
        lambda text: text,
        secrets=secrets,
        clock=clock,
        metrics=metrics or Metrics(),
        log=QUIET,
    )


@asynccontextmanager
async def served(
    hub: Hub, bus: AuditDetectionEventBus, consumers: Sequence[AuditDetectionConsumer]
) -> AsyncIterator[int]:
    """Serve a hub while the block lasts; the port is where it listens."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(hub.serve, bus, consumers)
        await until(lambda: not hub.trouble)
        yield hub.port
        tg.cancel_scope.cancel()


class Reader:
    """A process that reads a bus: a local bus, and the relay that publishes on it."""

    def __init__(
        self,
        secrets: Secrets | None,
        ports: Sequence[int],
        *,
        clock: Clock,
        consumer: str = CONSUMER,
    ) -> None:
        """Without secrets it speaks no TLS and shows nothing."""
        self.metrics = Metrics()
        self.bus = LocalBus(self.metrics)
        self.points: list[Checkpoint] = []
        """The checkpoints of whoever reads it."""
        self.settings = RelaySettings(
            addresses=tuple(f"127.0.0.1:{port}" for port in ports),
            ca=str(secrets.ca) if secrets else "",
            token_file=str(secrets.token) if secrets else "",
            plaintext=secrets is None,
        )
        self.relay = AuditRelay(
            self.settings,
            consumer=consumer,
            checkpoints=lambda source: [point for point in self.points if point.source == source],
            clock=clock,
            metrics=self.metrics,
            log=QUIET,
        )
        self.intake = Intake(self.bus, Positions(), clock=clock, metrics=self.metrics, log=QUIET)

    @property
    def connected(self) -> int:
        """How many servers are being read."""
        return sum(stream.connected for stream in self.relay._streams)  # noqa: SLF001 - what a test waits for

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read while the block lasts."""
        async with anyio.create_task_group() as tg:
            self.intake.add(self.relay, "test")
            self.intake.open(tg, lambda _: ())
            yield
            self.intake.close()


@asynccontextmanager
async def bridged(
    secrets: Secrets, *consumers: AuditDetectionConsumer, clock: Clock | None = None
) -> AsyncIterator[tuple[Hub, Wire, Reader]]:
    """Lend a hub, the wire to it and a reader that is connected."""
    clock = clock or SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    declared = consumers or (AuditDetectionConsumer(name=CONSUMER),)
    async with served(hub, bus_settings(), declared) as port, wired(port) as wire:
        reader = Reader(secrets, [wire.port], clock=clock)
        async with reader.reading():
            await until(lambda: bool(reader.connected))
            yield hub, wire, reader


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for real processes and sockets, with a bound."""
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - whoever changes it tells nobody
            await anyio.sleep(0.005)


async def records(subscription: Any, count: int) -> list[AuditRecord]:  # noqa: ANN401 - of the local bus
    """Return so many records from a subscription."""
    found: list[AuditRecord] = []
    with anyio.fail_after(20):
        while len(found) < count:
            batch = await subscription.receive()
            assert batch is not None, "the bus was closed"
            found += batch.observations
    return found
