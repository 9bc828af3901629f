"""`BridgeSilence`: what a reader of another process's event bus sees of it when it brings nothing."""

import datetime as dt
import hashlib

import msgspec


class BridgeSilence(msgspec.Struct, frozen=True):
    """A server of the bus has said nothing for too long, or does not let us in."""

    server: str
    """Its address, as far as it is known."""
    consumer: str
    since: dt.datetime
    """When it was heard last, or when we began to listen."""
    at: dt.datetime
    why: str
    """In one line, without secrets."""

    @property
    def seen_at(self) -> dt.datetime:
        """When it was noticed."""
        return self.at

    def correlation(self, cluster_id: str) -> str:
        """One silence of one server."""
        text = f"{cluster_id}|bridge|{self.server}|{self.consumer}|{self.since.isoformat()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]
