"""`SilentBridge`: the detector of an operator whose audit stream comes from another process."""

from collections.abc import Iterator
from typing import Final

from ugallu.api.bridge import BridgeSilence
from ugallu.api.catalog import CATALOGUE
from ugallu.api.event import ClusterIdentity
from ugallu.api.meta import utc_seconds
from ugallu.api.observation import Finding

_SILENT: Final = CATALOGUE["AuditBridgeSilent"]


class SilentBridge:
    """Reports each silence of the bus once: whoever hears nothing must not take it for peace."""

    observes = BridgeSilence

    def __init__(self, identity: ClusterIdentity) -> None:
        self._identity = identity

    def inspect(self, seen: BridgeSilence) -> Iterator[Finding]:
        """Return the one finding."""
        yield Finding(
            _SILENT,
            self._identity.subject,
            key=f"{seen.server}|{seen.consumer}",
            signals={
                "bus.server": seen.server,
                "bus.consumer": seen.consumer,
                "silent.since": utc_seconds(seen.since).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "reason": seen.why,
            },
        )
