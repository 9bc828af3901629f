"""`Hub`: the event bus of an audit-detection, over every change of its settings.

A change ends the streams, which come back behind the last event that they have; nothing of the feed is lost by it.
gRPC and the messages are imported once a hub is made, so make none where no bus is asked for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from ugallu.api.audit import AuditObject, AuditRecord
from ugallu.api.detection import AuditDetectionBusTLS, AuditDetectionConsumer, AuditDetectionEventBus
from ugallu.clock import Clock
from ugallu.errors import PermanentError, UgalluError, first_of
from ugallu.logs import Logger
from ugallu.metrics import Metrics

if TYPE_CHECKING:
    from ugallu.net.bearer import BearerToken
    from ugallu.net.tls import ServerTls

_NAME: Final = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,251}[A-Za-z0-9])?")


class Hub:
    """Takes in events and serves them."""

    def __init__(
        self,
        redact: Callable[[Any, AuditObject | None], Any],
        scrub: Callable[[str], str],
        *,
        secrets: Path,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        """`redact` takes secrets out of a body, `scrub` out of a text; `secrets` has a folder for each Secret."""
        from ugallu.bus.events import Encoder
        from ugallu.bus.feed import Feed

        self.port = 0
        """Where it listens; 0 while it does not."""
        self.trouble = "starting"
        """Why it does not listen."""
        self.feed = Feed(Encoder(redact, scrub), clock)
        self._secrets = secrets
        self._clock = clock
        self._metrics = metrics
        self._log = log
        # One server at a time: the one before may still be telling its streams.
        self._turn = anyio.Lock()

    def offer(self, records: Iterable[AuditRecord]) -> None:
        """Take in events, in order; never waits."""
        self.feed.offer(records)

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return sum(self.feed.streams.values())

    @property
    def dropped(self) -> Mapping[tuple[str, str], int]:
        """Events lost by consumer and reason, cumulative."""
        return {
            (name, reason): count for name, lane in self.feed.lanes.items() for reason, count in lane.dropped.items()
        }

    async def serve(self, bus: AuditDetectionEventBus, consumers: Sequence[AuditDetectionConsumer]) -> None:
        """Serve with these settings until cancelled.

        Raises `PermanentError` for an address, certificate or token that cannot be used, and for callers that would
        prove nothing.
        """
        from ugallu.bus.server import BusServer

        async with self._turn:
            try:
                self.feed.configure(consumers)
                tls, token = self._tls(bus), self._token(bus)
                self._check(bus, tls, token)
                server = BusServer(
                    self.feed,
                    bus.listen_addr,
                    tls=tls,
                    token=token,
                    clock=self._clock,
                    metrics=self._metrics,
                    log=self._log,
                )
                async with anyio.create_task_group() as tg:
                    self.port = await tg.start(lambda *, task_status: server.serve(task_status=task_status))
                    self.trouble = ""
                    self._log.info("the event bus listens", address=bus.listen_addr)
            except UgalluError as error:
                self.trouble = str(error)
                raise
            except BaseExceptionGroup as group:
                ours, rest = group.split(UgalluError)
                if ours is None or rest is not None:
                    raise
                self.trouble = str(first_of(ours))
                raise first_of(ours) from group
            finally:
                self.port = 0
                self.trouble = self.trouble or "stopped"

    def _tls(self, bus: AuditDetectionEventBus) -> "ServerTls | None":
        from ugallu.net.rpc import PROTOCOL
        from ugallu.net.tls import ServerTls

        wanted = bus.tls or AuditDetectionBusTLS()
        folder = self._folder(wanted.secret_name, "tls.secretName")
        ca = None
        if wanted.client_ca_secret_name:
            ca = self._folder(wanted.client_ca_secret_name, "tls.clientCASecretName") / "ca.crt"
        if bus.insecure and ca is None and not (folder / "tls.crt").exists():
            self._log.warning("the event bus has no certificate: anybody on the way reads audit events")
            return None
        try:
            return ServerTls(folder / "tls.crt", folder / "tls.key", ca, protocol=PROTOCOL)
        except PermanentError as error:
            raise PermanentError(
                error.what, where=error.where, fix=f"{error.fix}; Secrets are mounted in {self._secrets}"
            ) from error

    def _token(self, bus: AuditDetectionEventBus) -> "BearerToken | None":
        from ugallu.net.bearer import BearerToken

        wanted = bus.token_secret
        if wanted is None:
            return None
        path = self._folder(wanted.name, "tokenSecret.name") / _plain(wanted.key, "tokenSecret.key")
        if wanted.optional and not path.exists():
            return None
        try:
            return BearerToken(path)
        except PermanentError as error:
            raise PermanentError(
                error.what, where=error.where, fix=f"{error.fix}; Secrets are mounted in {self._secrets}"
            ) from error

    def _check(self, bus: AuditDetectionEventBus, tls: "ServerTls | None", token: "BearerToken | None") -> None:
        proven = token is not None or (tls is not None and bus.tls is not None and bool(bus.tls.client_ca_secret_name))
        if not proven and not bus.insecure:
            raise PermanentError(
                "would serve consumers that prove nothing",
                where="eventBus",
                fix="name a tokenSecret or tls.clientCASecretName, or say insecure in a lab",
            )
        if not proven:
            self._log.warning("consumers need not prove who they are: anybody who reaches the bus reads audit events")

    def _folder(self, name: str, field: str) -> Path:
        return self._secrets / _plain(name, field)


def _plain(name: str, field: str) -> str:
    """Return a name that is one part of a path; raises `PermanentError` for another."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise PermanentError(f"no name: {name[:64]!r}", where=f"eventBus.{field}", fix="name a Secret, or its key")
    return name
