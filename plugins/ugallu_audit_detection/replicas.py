"""`Replicas`: whether another replica behind the same webhook hears the API server, told through the config object.

An API server stays with the replica that it is connected to, and the others hear nothing: only together they know
whether the stream has fallen silent. No clock is compared with another one: what counts is that somebody has written.
"""

from typing import TYPE_CHECKING, Final

from ugallu.sdk import AuditDetectionConfig, Clock, Cluster, ConflictError, NotFoundError, TransientError, utc_seconds

if TYPE_CHECKING:
    import datetime as dt

NAME: Final = "default"
TELL_SECONDS: Final = 60.0
"""How often a replica that hears the stream says so. Well below the silence that is reported."""


class Replicas:
    """What this replica says, and what the others have said since it last looked; without the object, nothing."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._due = clock.monotonic()
        self._looked = False
        self._last: dt.datetime | None = None

    async def tell(self) -> None:
        """Say that this replica hears the stream, unless it has just said so."""
        if self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + TELL_SECONDS
        now = utc_seconds(self._clock.now())
        try:
            await self._cluster.patch_status(AuditDetectionConfig, NAME, {"lastEventAt": now.isoformat()})
        except (NotFoundError, ConflictError, TransientError):
            return  # nobody to tell, or not now
        self._looked, self._last = True, now

    async def heard(self) -> bool:
        """Tell whether another replica has said that it hears the stream; asks as often as one says so."""
        if self._clock.monotonic() < self._due:
            return False
        self._due = self._clock.monotonic() + TELL_SECONDS
        try:
            found = await self._cluster.get(AuditDetectionConfig, NAME)
        except (NotFoundError, TransientError):
            return False
        news = self._looked and found.status.last_event_at != self._last
        self._looked, self._last = True, found.status.last_event_at
        return news
