"""A timestamp authority that we ask (RFC 3161 over HTTP)."""

import secrets

from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.evidence import timestamp
from ugallu.evidence.ports import IntegrityError
from ugallu.evidence.trusted_root import Authority
from ugallu.net.ask import Peer, failed

MAX_SKEW = 300.0
"""Seconds between its clock and ours: one of them is wrong by more, and certificates would be judged by it."""


class TimestampService:
    """A `TimestampAuthority` at a URL; the whole URL is that of its service, `.../api/v1/timestamp` as a rule."""

    def __init__(self, client: Peer, authorities: tuple[Authority, ...], clock: Clock) -> None:
        self._client = client
        self._authorities = authorities
        self._clock = clock

    async def stamp(self, signature: bytes) -> bytes:
        """Have the signature stamped, and believe the reply only once it was checked."""
        nonce = secrets.randbits(64)
        headers = {"Content-Type": timestamp.REQUEST, "Accept": timestamp.REPLY}
        reply = await self._client.ask("POST", "", timestamp.request(signature, nonce), headers)
        if reply.status not in (200, 201):
            raise failed(reply, self._client.host)
        try:
            at = timestamp.check(reply.body, signature, self._authorities)
            answered = timestamp.read(reply.body).nonce
        except PermanentError as error:
            raise IntegrityError(f"the timestamp does not hold: {error}", where=self._client.host) from error
        if answered != nonce:
            raise IntegrityError("the timestamp answers another request", where=self._client.host)
        skew = (at - self._clock.now()).total_seconds()
        if abs(skew) > MAX_SKEW:
            raise IntegrityError(
                f"the authority's clock and ours are {abs(skew):.0f} s apart", where=self._client.host, fix="check both"
            )
        return reply.body
