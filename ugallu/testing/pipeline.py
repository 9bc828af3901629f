"""Small stand-ins at the edges of the pipeline: an observation, a source from a list, an emitter that remembers."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import anyio
import msgspec

from ugallu.api.observation import Batch, Checkpoint, Finding
from ugallu.bus.port import Publish
from ugallu.emit.port import Origin

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An observation that is only a number."""

    number: int

    @property
    def seen_at(self) -> dt.datetime:
        """One second a number, from the start of 2026."""
        return EPOCH + dt.timedelta(seconds=self.number)

    def correlation(self, cluster_id: str) -> str:
        """Hash of cluster and number."""
        return hashlib.sha256(f"{cluster_id}/{self.number}".encode()).hexdigest()[:32]


def batches(source: str, numbers: Iterable[int], size: int, *, rewinds: bool = True) -> list[Batch[Seen]]:
    """Cut numbers into batches; `resume` is the number of the next observation, in ASCII."""
    all_seen = [Seen(number) for number in numbers]
    return [
        Batch(
            source=source,
            first=at,
            observations=all_seen[at : at + size],
            resume=str(min(at + size, len(all_seen))).encode() if rewinds else b"",
            counts={"received": min(at + size, len(all_seen)), "parsed": min(at + size, len(all_seen))},
        )
        for at in range(0, len(all_seen), size)
    ]


class NumberSource:
    """Publishes the numbers 0 to `end` in batches and ends; fails once before each number in `fails_at`."""

    observes = Seen

    def __init__(self, end: int, *, name: str = "numbers", size: int = 10, fails_at: Iterable[int] = ()) -> None:
        self.name = name
        self.starts: list[Checkpoint | None] = []
        self._batches = batches(name, range(end), size)
        self._fails_at = set(fails_at)

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish from the checkpoint on."""
        self.starts.append(start)
        begin = int(start.resume or b"0") if start else 0
        for batch in self._batches:
            if batch.first < begin:
                continue
            if batch.first in self._fails_at:
                self._fails_at.discard(batch.first)
                raise OSError("the wire broke")
            await publish(batch)


class RememberingEmitter:
    """An `Emitter` that keeps what was submitted, in order; `gate` holds every submit while it is unset."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.submitted: list[tuple[Sequence[Finding], Checkpoint | None]] = []
        self.losses: list[tuple[str, Mapping[str, int]]] = []
        self.refusing = ""
        self.gate = anyio.Event()
        self.gate.set()

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:
        """Remember."""
        await self.gate.wait()
        self.submitted.append((tuple(findings), checkpoint))

    def ready(self) -> str:
        """Return what a test says."""
        return self.refusing

    async def lost(self, reason: str, counts: Mapping[str, int], at: dt.datetime) -> None:  # noqa: ARG002 - the shape of an emitter
        """Remember."""
        self.losses.append((reason, dict(counts)))

    @property
    def findings(self) -> list[Finding]:
        """Everything submitted, in order."""
        return [finding for found, _ in self.submitted for finding in found]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint, in order."""
        return [point for _, point in self.submitted if point is not None]
