"""A cluster that is written to only while one leads: what a leader's work gets instead of the cluster itself.

The question is asked right before each write: a process that was stopped beyond its Lease and goes on writes nothing.
"""

from collections.abc import Callable

from ugallu.cluster.port import Cluster
from ugallu.cluster.through import WRITES, Asked, Through
from ugallu.errors import ConflictError


class NotLeadingError(ConflictError):
    """Somebody else may lead by now; what was to be written is for him to decide."""


class Fenced(Through):
    """Writes raise `NotLeadingError` once `leads()` is false."""

    def __init__(self, cluster: Cluster, leads: Callable[[], bool]) -> None:
        super().__init__(cluster)
        self._leads = leads

    def _look(self, asked: Asked) -> None:
        if asked.verb in WRITES and not self._leads():
            where = f"{asked.kind.kind_info.name}/{asked.name}"
            raise NotLeadingError(f"leadership has ended, so no {asked.verb}", where=where)
