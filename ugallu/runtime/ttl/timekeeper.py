"""Keeps the line of `Trust`: asks the API server for its time, remembers the line, says when the clock is in doubt."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.cluster.port import Server
from ugallu.errors import UgalluError
from ugallu.evidence.files import write_durably
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.runtime.ttl.expiry import TOLERANCE
from ugallu.runtime.ttl.trust import Anchor, Trust

FILE: Final = "ttl-clock.json"
EVERY: Final = 60.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what names this boot of the machine, empty where nothing does: then no earlier process is believed."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def begin(state: Path, clock: Clock, boot: str) -> Trust:
    """Return the line, as an earlier process of this boot left it."""
    kept = None
    try:
        kept = msgspec.json.decode((state / FILE).read_bytes(), type=Anchor)
    except (OSError, msgspec.DecodeError):
        # None, or cut short by a crash: the wall clock has to be believed once.
        kept = None
    return Trust(boot, clock.now(), clock.monotonic(), kept if boot else None)


class Timekeeper:
    """A Service."""

    name = "clock"

    def __init__(
        self,
        trust: Trust,
        state: Path,
        server: Server | None,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        tell: Callable[[float], Awaitable[None]],
    ) -> None:
        """`tell` hears by how many seconds the clock is ahead, when that begins to be beyond belief."""
        self._trust = trust
        self._path = state / FILE
        self._server = server
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._tell = tell
        self._doubted = False

    @property
    def doubt(self) -> str:
        """What is wrong with the clock, empty when nothing is."""
        ahead = self._trust.doubt(self._clock.now(), self._clock.monotonic())
        if abs(ahead) <= TOLERANCE:
            return ""
        where = "ahead of" if ahead > 0 else "behind"
        return f"the clock is {abs(ahead):.0f} s {where} what can be: no end is judged by it alone"

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(EVERY)

    async def turn(self) -> None:
        """Ask the server, write the line down, and say how far the wall clock is from it."""
        if self._server is not None:
            try:
                told = await self._server.server_time()
            except UgalluError as error:
                self._log.info("the server's time is not known", error=str(error))
            else:
                if told is not None:
                    self._trust.witness(told, self._clock.monotonic())
        ahead = self._trust.doubt(self._clock.now(), self._clock.monotonic())
        self._metrics.gauge("ugallu_ttl_clock_doubt_seconds", ahead)
        doubted = abs(ahead) > TOLERANCE
        if doubted and not self._doubted:
            self._log.error("the clock jumped; ends are judged without it", seconds=round(ahead))
            await self._tell(ahead)
        self._doubted = doubted
        anchor = msgspec.json.encode(self._trust.anchor(self._clock.monotonic()))
        try:
            await to_thread.run_sync(write_durably, self._path, anchor)
        except OSError as error:
            self._log.warning("the clock is not remembered", error=str(error))


def skew(ahead: float) -> dict[str, str]:
    """Return the signals of an event about it."""
    return {"aheadSeconds": f"{ahead:.0f}", "reference": "monotonic clock, and the API server's where there is one"}
