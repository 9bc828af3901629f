"""What goes wrong around sealing, by plan: each call to a service, the store or the cluster is counted, and some break.

A fault strikes before a call is carried out or after it, when only the answer is lost, torn or changed. It may also
last, move our clock, or end the process. The same plan breaks the same calls.
"""

import datetime as dt
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from ugallu.cluster.port import Cluster, ForbiddenError, OutdatedError, UnavailableError
from ugallu.cluster.through import WRITES, Asked, Through
from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.evidence.ports import CredentialsError, FullError, Stored
from ugallu.evidence.stores.parts import from_url, split
from ugallu.net.ask import Peer, Reply
from ugallu.testing.clock import ManualClock
from ugallu.testing.lifecycle import MemoryStore
from ugallu.testing.sealing import Killed

T = TypeVar("T")

BEFORE: Final = ("away", "busy", "broken", "refused", "conflict", "page", "kill-before")
AFTER: Final = ("lost", "torn", "changed", "twice", "kill-after")
LASTING: Final = ("down", "jump")
FAULTS: Final = (*BEFORE, *AFTER, *LASTING)


class Strike(NamedTuple):
    """`fault` meets the `at`-th call: `down`, who was called is away for `seconds`; `jump`, our clock goes so far."""

    at: int
    fault: str
    seconds: float = 0.0


class TrueClock(ManualClock):
    """A manual clock for many short lives: whoever moves it lets the others run himself."""

    def move(self, seconds: float) -> None:
        """Move time and wake whoever is due."""
        self._monotonic += seconds
        self._now += dt.timedelta(seconds=seconds)
        for _, wake in filter(self._due, self._sleepers):
            wake.set()
        self._sleepers = list(itertools.filterfalse(self._due, self._sleepers))

    @property
    def next(self) -> float:
        """Seconds until the first sleeper is due; a minute when nobody sleeps."""
        return min((at for at, _ in self._sleepers), default=self._monotonic + 60.0) - self._monotonic

    def _due(self, sleeper: tuple[float, object]) -> bool:
        return sleeper[0] <= self._monotonic


class OurClock:
    """The clock of the machine that seals: it goes with the true one, and may be set wrong."""

    def __init__(self, true: ManualClock) -> None:
        self.true = true
        self._ahead = 0.0
        self._until = 0.0

    def set_wrong(self, seconds: float) -> None:
        """Go so far ahead, or back, until somebody notices half an hour later."""
        self._ahead += seconds
        self._until = self.true.monotonic() + 1800.0

    @property
    def wrong(self) -> float:
        """Seconds by which it is ahead."""
        if self.true.monotonic() >= self._until:
            self._ahead = 0.0
        return self._ahead

    def now(self) -> dt.datetime:
        """Return the wall time as this machine has it."""
        return self.true.now() + dt.timedelta(seconds=self.wrong)

    def monotonic(self) -> float:
        """Nobody can set it."""
        return self.true.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait until the true clock has moved so far."""
        await self.true.sleep(seconds)


class Trouble:
    """The plan, and how far it has come."""

    def __init__(self, clock: OurClock, strikes: Sequence[Strike] = (), seed: int = 0) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.struck: list[tuple[Strike, str]] = []
        self.dead = False
        """Whether this life of the process is over: nothing of it is carried out any more."""
        self.dice = random.Random(seed)  # noqa: S311 - which byte changes is no secret
        self._left = sorted(strikes)
        self._moments: dict[int, Callable[[], None]] = {}
        self._down: dict[str, float] = {}

    def at_call(self, number: int, happens: Callable[[], None]) -> None:
        """Let something happen just before the call with this number."""
        self._moments[number] = happens

    @property
    def over(self) -> bool:
        """Nothing more will break."""
        return (
            not self._left
            and not self.clock.wrong
            and all(until <= self.clock.monotonic() for until in self._down.values())
        )

    def end(self) -> None:
        """From now on everything works."""
        self._left.clear()
        self._down.clear()

    def met(self, who: str, what: str) -> str:
        """Count a call; return the fault that it meets, empty for none."""
        if self.dead:
            raise Killed
        self.calls.append(f"{who} {what}")
        self._moments.pop(len(self.calls), _nothing)()
        fault = "away" if self._down.get(who, 0.0) > self.clock.monotonic() else ""
        while self._left and self._left[0].at <= len(self.calls):
            strike = self._left.pop(0)
            self.struck.append((strike, self.calls[-1]))
            if strike.fault == "jump":
                self.clock.set_wrong(strike.seconds)
            elif strike.fault == "down":
                self._down[who] = self.clock.monotonic() + strike.seconds
                fault = "away"
            else:
                fault = strike.fault
        return fault

    async def call(
        self, who: str, what: str, effect: Callable[[], Awaitable[T]], errors: Mapping[str, UgalluError]
    ) -> T:
        """Make a call that answers with values: what breaks is an error, `errors` by fault; torn answers are lost."""
        fault = self.met(who, what)
        self.mortal(fault == "kill-before")
        if fault in BEFORE and fault != "kill-before":
            raise errors.get(fault, errors["away"])
        done = await effect()
        if fault == "twice":
            done = await effect()
        self.mortal(fault == "kill-after")
        if fault in ("lost", "torn"):
            raise errors["lost"]
        return done

    def mortal(self, ends: bool) -> None:
        """End the process, if it does end here or has ended elsewhere meanwhile."""
        self.dead = self.dead or ends
        if self.dead:
            raise Killed


def _nothing() -> None:
    """Happens mostly."""


class TroubledPeer:
    """A `Peer` whose answers are late, wrong, torn, or none."""

    def __init__(self, peer: Peer, trouble: Trouble) -> None:
        self._peer = peer
        self._trouble = trouble
        self.host = peer.host

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Ask, unless the plan says otherwise."""
        trouble, host = self._trouble, self.host
        fault = trouble.met(host, f"{method} {path.partition('?')[0]}")
        trouble.mortal(fault == "kill-before")
        if fault == "away":
            raise TransientError("cannot be asked: Connection refused", where=host)
        if fault in _REPLIES:
            return _REPLIES[fault]
        reply = await self._peer.ask(method, path, body, headers)
        if fault == "twice":
            reply = await self._peer.ask(method, path, body, headers)
        trouble.mortal(fault == "kill-after")
        match fault:
            case "lost":
                raise TransientError("no answer within 30 s", where=host)
            case "torn":
                return reply._replace(body=reply.body[: len(reply.body) // 2])
            case "changed":
                return reply._replace(body=_changed(reply.body, trouble.dice))
        return reply

    async def aclose(self) -> None:
        """There is nothing to close."""


_REPLIES: Final = {
    "busy": Reply(429, {"retry-after": "2"}, b"slow down"),
    "broken": Reply(500, {}, b"oops"),
    "refused": Reply(403, {}, b'{"errors":["permission denied"]}'),
    "conflict": Reply(409, {}, b"a race"),
    "page": Reply(200, {"content-type": "text/html"}, b"<html>Service under maintenance</html>"),
}


def _changed(content: bytes, dice: random.Random) -> bytes:
    """Return the content with one bit of it turned."""
    if not content:
        return content
    at = dice.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << dice.randrange(7))]) + content[at + 1 :]


class TroubledStore(MemoryStore):
    """A store in memory that fails by plan; parts of what it holds are read as of any store."""

    def __init__(self, clock: ManualClock, trouble: Callable[[], Trouble]) -> None:
        super().__init__(clock)
        self._trouble = trouble
        self.puts: list[str] = []
        """Keys of evidence, each as often as it was really written."""

    def key(self, url: str) -> str:
        """Return the key of a URL, of a part as well."""
        whole, part = from_url(url)
        return super().key(whole) + part

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store."""

        async def effect() -> Stored:
            new = until is not None and key not in self.blobs
            stored = await MemoryStore.put(self, key, content, media_type=media_type, until=until)
            if new:
                self.puts.append(key)
            return stored

        return await self._ask("put", key, effect)

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Read."""
        return await self._ask("read", key, lambda: self.held(key))

    async def stat(self, key: str) -> Stored | None:
        """Look."""
        return await self._ask("stat", key, lambda: MemoryStore.stat(self, key))

    async def drop(self, key: str) -> None:
        """Remove."""
        await self._ask("drop", key, lambda: MemoryStore.drop(self, key))

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def held(self, key: str) -> tuple[Stored, bytes]:
        """Return what is there, without any trouble."""
        whole, part = split(key)
        if whole not in self.blobs:
            raise PermanentError("nothing is stored here", where=key)
        content, stored = self.blobs[whole]
        return (stored, content) if part is None else part.of(stored, content)

    async def _ask(self, verb: str, key: str, effect: Callable[[], Awaitable[T]]) -> T:
        return await self._trouble().call("store", f"{verb} {key.rpartition('.')[2]}", effect, _STORE_ERRORS)


_STORE_ERRORS: Final[Mapping[str, UgalluError]] = {
    "away": TransientError("no route to the store"),
    "lost": TransientError("no answer in time"),
    "busy": TransientError("SlowDown", retry_after=2.0),
    "broken": TransientError("InternalError"),
    "conflict": TransientError("OperationAborted"),
    "refused": CredentialsError("ExpiredToken"),
    "page": FullError("InsufficientStorage"),
}


class TroubledCluster(Through):
    """An API server that fails by plan: its writes, and the reads of single objects."""

    def __init__(
        self, cluster: Cluster, trouble: Callable[[], Trouble], told: Callable[[Asked], Awaitable[None]]
    ) -> None:
        """`told` sees what was written."""
        super().__init__(cluster)
        self._trouble = trouble
        self._told = told

    @property
    def embedded(self) -> bool:
        """A server, to those who ask."""
        return False

    async def _pass(self, asked: Asked, effect: Callable[[], Awaitable[T]]) -> T:
        if asked.verb not in WRITES | {"get"}:
            return await effect()

        async def watched() -> T:
            done = await effect()
            if asked.verb in WRITES:
                await self._told(asked)
            return done

        what = f"{asked.verb} {asked.kind.kind_info.name}"
        return await self._trouble().call("cluster", what, watched, _CLUSTER_ERRORS)


_CLUSTER_ERRORS: Final[Mapping[str, UgalluError]] = {
    "away": UnavailableError("connection refused"),
    "lost": UnavailableError("timed out"),
    "busy": UnavailableError("too many requests", retry_after=2.0),
    "broken": UnavailableError("internal error"),
    "conflict": OutdatedError("the object has been modified"),
    "refused": ForbiddenError("a policy is being changed"),
}


def drawn(dice: random.Random, calls: int, most: int = 3) -> list[Strike]:
    """Draw a plan: up to `most` faults among so many calls; outages and jumps of moments up to hours."""
    strikes = []
    for _ in range(dice.randint(1, most)):
        fault = dice.choice(FAULTS)
        seconds = 0.0
        if fault == "down":
            seconds = dice.choice([5.0, 120.0, 700.0, 4000.0, 40_000.0])
        elif fault == "jump":
            seconds = dice.choice([-1800.0, -90.0, 40.0, 400.0, 3600.0, 100_000.0])
        strikes.append(Strike(dice.randint(1, calls), fault, seconds))
    return strikes
