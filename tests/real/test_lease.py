"""One leader at a time on a real API server, though processes stop and go on and the server comes and goes."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests.rig.cluster import ApiServer

pytestmark = pytest.mark.real


class Turn(NamedTuple):
    """When a process acted as leader for the first and for the last time in one turn; CLOCK_MONOTONIC."""

    first: float
    last: float
    who: str


class Contender:
    """A process that contends for the Lease."""

    def __init__(self, api: ApiServer, namespace: str, identity: str, folder: Path) -> None:
        self.identity = identity
        self.log = folder / identity
        self.log.touch()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ugallu.testing.contender", str(api.kubeconfig)),
                *(namespace, identity, str(self.log)),
            ]
        )

    def turns(self) -> list[Turn]:
        acts: dict[str, list[float]] = {}
        for line in self.log.read_text().splitlines():
            turn, _, moment = line.partition(" ")
            acts.setdefault(turn, []).append(float(moment))
        return [Turn(moments[0], moments[-1], self.identity) for moments in acts.values()]

    def acts_after(self, moment: float) -> Self | None:
        return self if self.last > moment else None

    @property
    def last(self) -> float:
        return max((turn.last for turn in self.turns()), default=0.0)


@contextmanager
def contenders(api: ApiServer, namespace: str, folder: Path, count: int) -> Iterator[list[Contender]]:
    found = [Contender(api, namespace, f"c{number}", folder) for number in range(count)]
    try:
        yield found
    finally:
        for each in found:
            each.process.send_signal(signal.SIGCONT)
            each.process.kill()
            each.process.wait()


def test_no_two_act_at_once(api: ApiServer, tmp_path: Path) -> None:
    """A leader stopped beyond its Lease acts no more when it goes on; a server that restarts makes no second one."""
    namespace = api.namespace("lease")
    with contenders(api, namespace, tmp_path, 2) as both:

        def leader(after: float) -> Contender:
            return api.wait("a leader", lambda: both[0].acts_after(after) or both[1].acts_after(after), seconds=60)

        for _ in range(2):
            first = leader(max(each.last for each in both))
            (second,) = (each for each in both if each is not first)
            first.process.send_signal(signal.SIGSTOP)
            api.wait("the other one to lead", partial(second.acts_after, first.last), seconds=60)
            first.process.send_signal(signal.SIGCONT)
            # Long enough for the one that was stopped to act, if it were to.
            api.wait("it to go on", partial(second.acts_after, second.last + 1.0), seconds=60)
            api.restart()
        last = leader(max(each.last for each in both))
        (other,) = (each for each in both if each is not last)
        last.process.send_signal(signal.SIGTERM)
        assert last.process.wait(20) == 0
        ended = last.last
        api.wait("the Lease to go over", partial(other.acts_after, ended), seconds=60)
        other.process.send_signal(signal.SIGTERM)
        assert other.process.wait(20) == 0
        turns = sorted(turn for each in both for turn in each.turns())
    overlaps = [(one, two) for one, two in itertools.pairwise(turns) if two.first <= one.last]
    assert overlaps == []
    assert len({turn.who for turn in turns}) == 2
    handed = next(turn.first for turn in turns if turn.who == other.identity and turn.first > ended)
    assert handed - ended < 2.0, "a Lease that was given back is taken at once"
    held = api.kubectl("get", "lease", "contended", "-n", namespace, "-o", "jsonpath={.spec.holderIdentity}")
    assert held == ""
