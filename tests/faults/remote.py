"""Breaks what the attestor asks at random points: authority, key service, log, timestamps, store, cluster, clock, itself.

Each point is an attestor over services in memory (real keys, real trees, real checks), a few events, and up to three
faults at random calls: refused, late, torn or changed answers, 403, 409, 429, 5xx, outages of seconds to hours, a clock
that is set wrong, a process that is killed. Whatever happens, in the end every event is attested by evidence that
verifies, each statement has one log entry for each who signed it, nothing was called sealed that did not verify at
that moment, and nothing is left staged.

    python tests/faults/remote.py --points 1000 --seed 7
    python tests/faults/remote.py --seed 7 --only 123       # one of them again, with its story
"""

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

import structlog

from ugallu.api.bundle import AttestationBundle, BundlePhase, SigningMode
from ugallu.api.event import SecurityEvent
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.errors import UgalluError
from ugallu.evidence import bundle as bundles
from ugallu.evidence.statement import spec_bytes
from ugallu.testing.afar import Quiet, Shape, World, empty_cluster, living
from ugallu.testing.evidence import make_event
from ugallu.testing.sealing import Killed
from ugallu.testing.trouble import Strike, Trouble, TrueClock, drawn

LIVES: Final = 8
MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Disks are not what is tried here."""


MODES: Final = (SigningMode.FULCIO_KEYLESS, SigningMode.OPENBAO_TRANSIT, SigningMode.DUAL)
SHAPES: Final = tuple(
    Shape(mode, generation, stamped, events, burst)
    for mode in MODES
    for generation in (1, 2)
    # A certificate is worth nothing without a signed time, and a log of generation 2 signs none.
    for stamped in ((True, False) if generation == 1 or mode is SigningMode.OPENBAO_TRANSIT else (True,))
    for events, burst in ((1, False), (3, False), (3, True))
)


class Verdict(NamedTuple):
    """One point: what broke, and what is wrong in the end (empty: nothing)."""

    number: int
    shape: Shape
    struck: list[tuple[Strike, str]]
    calls: list[str]
    wrong: list[str]


async def try_point(world: World, number: int, strikes: list[Strike], seed: int) -> Verdict:
    """Live until everything is attested, or hopeless; then judge."""
    shape, dice = world.shape, random.Random(f"{seed}/{number}")
    world.trouble = Trouble(world.clock, strikes, number)
    for at in range(shape.events):
        await world.behind.create(make_event(f"se-{at:024x}"))
    wrong = ["it never came to an end"]
    for life in range(LIVES):
        if life == LIVES - 2:
            world.trouble.end()
        try:
            async with living(world, dice) as process:
                await process.work()
                wrong = process.left
                if not wrong:
                    break
        except Killed:
            pass
        except BaseExceptionGroup as group:
            if (other := group.split(Killed)[1]) is not None:
                raise other from group
        world.true.move(dice.choice([1.0, 20.0, 700.0]))
    struck, calls = list(world.trouble.struck), list(world.trouble.calls)
    world.trouble = Trouble(world.clock)
    wrong += world.wrong + await judge(world)
    return Verdict(number, shape, struck, calls, wrong)


async def judge(world: World) -> list[str]:
    """Say what is wrong with what is left."""
    wrong: list[str] = []
    found, _ = await list_all(world.behind, AttestationBundle)
    events = {event.metadata.name: event for event in (await list_all(world.behind, SecurityEvent))[0]}
    if sorted(bundle.spec.attested_for.name for bundle in found) != sorted(events):
        wrong.append(f"{len(found)} bundles for {len(events)} events")
    vouched: set[bytes] = set()
    for bundle in found:
        name, event = bundle.metadata.name, events[bundle.spec.attested_for.name]
        if bundle.status.phase is not BundlePhase.SEALED:
            last = bundle.status.failures[-1:] or ("nothing failed",)
            wrong.append(f"{name} is {bundle.status.phase}: {last[0]}")
            continue
        try:
            await world.verify(bundle)
        except UgalluError as error:
            wrong.append(f"{name}: {error}")
            continue
        assert bundle.status.subject_ref is not None
        if (await Quiet(world.store).get(world.store.key(bundle.status.subject_ref.url))) != spec_bytes(event):
            wrong.append(f"{name} names other bytes than its event has")
        if event.status.attestation_digest != bundle.status.statement_digest:
            wrong.append(f"{event.metadata.name} remembers another statement than {name} has")
        if len(bundle.status.bundles) != world.shape.legs:
            wrong.append(f"{name} has {len(bundle.status.bundles)} of {world.shape.legs} signatures")
        for leg in bundle.status.bundles:
            content = await Quiet(world.store).get(world.store.key(leg.url))
            vouched |= {entry.body for entry in bundles.read(content).entries}
    statements = {bundle.status.statement_digest for bundle in found}
    if len(world.entries) != len(vouched) or len(vouched) != len(statements) * world.shape.legs:
        wrong.append(f"{len(world.entries)} entries, {len(vouched)} vouch, for {len(statements)} statements")
    twice = [key for key, count in collections.Counter(world.store.puts).items() if count > 1]
    if twice:
        wrong.append(f"written more than once: {twice}")
    return wrong


class Points:
    """Draws points, and tries them; `ready` opens it."""

    def __init__(self, seed: int, folder: Path, true: TrueClock, behind: EmbeddedCluster) -> None:
        self._seed = seed
        self._folder = folder
        self._lengths: dict[Shape, int] = {}
        self._true = true
        # One for all: a cluster with its schemas and policies takes longer to make than a point.
        self._behind = behind

    @classmethod
    @asynccontextmanager
    async def ready(cls, seed: int, folder: Path) -> AsyncIterator[Self]:
        """Open a place to try them in."""
        true = TrueClock()
        behind = await empty_cluster(true)
        try:
            yield cls(seed, folder, true, behind)
        finally:
            await behind.close()

    async def try_one(self, number: int, most: int = 3) -> Verdict:
        """Try one point, with up to `most` faults."""
        dice = random.Random(f"plan {self._seed}/{number}")
        shape = dice.choice(SHAPES)
        if shape not in self._lengths:
            calm = await self.try_plan(shape, [])
            assert not calm.wrong, calm.wrong
            self._lengths[shape] = len(calm.calls)
        return await self.try_plan(shape, drawn(dice, int(self._lengths[shape] * 1.1), most), number)

    async def try_plan(self, shape: Shape, strikes: list[Strike], number: int = 0) -> Verdict:
        """Try a plan, and leave the cluster empty for the next."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            world = World(shape, Path(folder), self._true, self._behind)
            verdict = await try_point(world, number, strikes, self._seed)
        for kind in (SecurityEvent, AttestationBundle):
            for left in (await list_all(self._behind, kind))[0]:
                await self._behind.delete(kind, left.metadata.name)
        return verdict


async def run(seed: int, numbers: range, *, most: int, story: bool) -> int:
    """Try points and print a line for each that ended wrong; return how many did."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, bad, faults = time.perf_counter(), 0, collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="ugallu-points-", dir=MEMORY) as folder:
        async with Points.ready(seed, Path(folder)) as points:
            for number in numbers:
                verdict = await points.try_one(number, most)
                faults.update(strike.fault for strike, _ in verdict.struck)
                bad += bool(verdict.wrong)
                if verdict.wrong or story:
                    _tell(verdict, story=story)
    seconds = time.perf_counter() - began
    print(f"{len(numbers)} points in {seconds:.0f} s, {faults.total()} faults: {dict(sorted(faults.items()))}")
    print(f"{bad} with a wrong history", flush=True)
    return bad


def _tell(verdict: Verdict, *, story: bool) -> None:
    print(f"{'FAILED' if verdict.wrong else 'good'} {verdict.number} {_words(verdict.shape)}")
    for strike, call in verdict.struck:
        print(f"    {strike.fault} at {strike.at}: {call}{f' ({strike.seconds:g} s)' if strike.seconds else ''}")
    for line in list(dict.fromkeys(verdict.wrong))[:6]:
        print(f"    ! {line}")
    if story:
        print(*(f"    {at} {call}" for at, call in enumerate(verdict.calls, 1)), sep="\n")


def _words(shape: Shape) -> str:
    stamped = ", stamped" if shape.stamped else ""
    together = " together" if shape.burst else ""
    return f"{shape.mode.value}, Rekor v{shape.generation}{stamped}, {shape.events} events{together}"


def main() -> int:
    """Try the points that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--most", type=int, default=3, help="faults in one point, at most")
    parser.add_argument("--only", type=int, help="this point alone, with every call")
    args = parser.parse_args()
    numbers = range(args.points) if args.only is None else range(args.only, args.only + 1)
    return 1 if asyncio.run(run(args.seed, numbers, most=args.most, story=args.only is not None)) else 0


if __name__ == "__main__":
    sys.exit(main())
