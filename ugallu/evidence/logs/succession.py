"""The keys of one log: the one that it signs with, and those that may follow.

A trusted root names the next key of a log before the log uses it, and keeps the one before. Which of them is in use is
the log's word, not the calendar's: the key that its newest answer names.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ugallu.errors import PermanentError
from ugallu.evidence.logs import note
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.trusted_root import LogKey


class Held(NamedTuple):
    """A key of the log, and what is remembered of the trees under it."""

    log: LogKey
    witness: Witness


class Succession:
    """The keys that a log may answer with; `now` is the one that it used last."""

    def __init__(self, first: Held, others: Sequence[Held] = ()) -> None:
        self.now = first
        self._held = {held.log.log_id: held for held in (first, *others)}

    def named(self, log_id: bytes) -> Held:
        """Return the key that an entry names; one that is not the log's leaves the one in use, which will not fit."""
        return self._held.get(log_id, self.now)

    def signed(self, checkpoint: str) -> Held:
        """Return the key that a checkpoint claims to be signed with, by its hint."""
        try:
            hints = {line.key_hint for line in note.read(checkpoint).signatures}
        except PermanentError:
            return self.now
        if self.now.log.log_id[:4] in hints:
            return self.now
        return next((held for held in self._held.values() if held.log.log_id[:4] in hints), self.now)
