"""Appending to a disk that may refuse: wait and try again, and say so meanwhile."""

from collections.abc import Sequence

from ugallu.clock import Clock
from ugallu.errors import UgalluError
from ugallu.journal.port import Journal
from ugallu.logs import Logger
from ugallu.pace import Backoff


class Appender:
    """Appends to the journal until it has worked; `refusing` is why it has not yet, empty when it has."""

    def __init__(self, journal: Journal, clock: Clock, log: Logger) -> None:
        self.refusing = ""
        self._journal = journal
        self._clock = clock
        self._log = log

    async def append(self, records: Sequence[bytes]) -> int:
        """Return the sequence number of the last record once all are durable; a cancellation is the only way out."""
        backoff = Backoff(first=0.1, ceiling=10.0)
        while True:
            try:
                seq = await self._journal.append(records)
            except UgalluError as error:
                # A read-only remount is permanent to the journal; findings are not thrown away for it.
                if not self.refusing:
                    self._log.error("the journal refuses; findings wait", error=str(error))
                self.refusing = f"journal refuses: {error}"
                await self._clock.sleep(backoff.next())
            else:
                if self.refusing:
                    self._log.info("the journal takes records again")
                self.refusing = ""
                return seq
