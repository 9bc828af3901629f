"""Leader election on a Lease.

Clocks of machines differ, so no time in a Lease is ever compared with ours: a candidate measures, on its own monotonic
clock, how long it has seen no change of the Lease, and a leader stops by its own clock before that can reach the
duration. Same protocol as client-go's `leaderelection`, so both can contend for one Lease.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec

from ugallu.api.core import Lease, LeaseSpec, micro_time
from ugallu.api.meta import Metadata
from ugallu.clock import Clock
from ugallu.cluster.port import AlreadyExistsError, Cluster, NotFoundError, Preconditions
from ugallu.errors import ConflictError, PermanentError, UgalluError


class Terms(msgspec.Struct, frozen=True):
    """Seconds: a lease lasts `duration` unseen; its holder tries each `retry`, and gives up after `renew` in vain."""

    duration: int = 15
    renew: float = 10.0
    retry: float = 2.0
    release: float = 5.0
    """How long a leader that stops tries to give the lease back."""

    def __post_init__(self) -> None:
        if not self.retry < self.renew < self.duration:
            raise PermanentError("retry < renew < duration must hold", where="lease terms")


class Election:
    """One candidate for one Lease; `identity` must be its own among all candidates."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        name: str,
        namespace: str,
        identity: str,
        terms: Terms = Terms(),  # noqa: B008 - a frozen value
        failed: Callable[[UgalluError], None] = lambda _: None,
    ) -> None:
        """`failed` hears every error of the cluster; all are tried again."""
        self.leading = False
        self.holder = ""
        """Who held the Lease when last seen."""
        self._cluster = cluster
        self._clock = clock
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._terms = terms
        self._failed = failed
        self._seen: Lease | None = None
        self._seen_at = 0.0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Wait for leadership, run `work` while it lasts; tell whether `work` ended by itself.

        False: leadership was lost and `work` was cancelled; call again to contend anew. The lease is given back on
        every way out but the loss of it.
        """
        finished = False
        try:
            renewed = await self._acquire()
            self.leading = True
            async with anyio.create_task_group() as tasks:

                async def do() -> None:
                    nonlocal finished
                    await work()
                    finished = True
                    tasks.cancel_scope.cancel()

                tasks.start_soon(do)
                await self._hold(renewed)
                tasks.cancel_scope.cancel()
        finally:
            self.leading = False
            await self._release()
        return finished

    async def _acquire(self) -> float:
        """Contend until the Lease is ours; return our time just before we wrote it."""
        while True:
            asked = self._clock.monotonic()
            if await self._within(self._terms.renew, self._try):
                return asked
            await self._clock.sleep(self._terms.retry)

    async def _hold(self, renewed: float) -> None:
        """Renew; return when the Lease is lost, or when it may be for all we know."""
        while (left := renewed + self._terms.renew - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(self._terms.retry, left))
            asked = self._clock.monotonic()
            if await self._within(renewed + self._terms.renew - asked, self._try):
                renewed = asked
            elif self.holder != self._identity:
                return

    async def _try(self) -> bool:
        """Take or renew the Lease if nobody else holds it; tell whether it is ours now."""
        try:
            lease = await self._read()
            if lease is None:
                stored = await self._cluster.create(
                    Lease(
                        metadata=Metadata(name=self._name, namespace=self._namespace),
                        spec=msgspec.structs.replace(self._claim(None), lease_transitions=0),
                    )
                )
            elif lease.spec.holder_identity not in ("", self._identity) and not self._expired(lease):
                return False
            else:
                stored = await self._write(lease, self._claim(lease))
        except (AlreadyExistsError, ConflictError):
            # Somebody was faster, or it was us and the answer got lost: the next look tells.
            return False
        except UgalluError as error:
            self._failed(error)
            return False
        self._note(stored)
        return True

    async def _read(self) -> Lease | None:
        try:
            lease = await self._cluster.get(Lease, self._name, self._namespace)
        except NotFoundError:
            self._seen, self.holder = None, ""
            return None
        self._note(lease)
        return lease

    def _note(self, lease: Lease) -> None:
        seen = self._seen
        if seen is None or (seen.metadata.uid, seen.spec) != (lease.metadata.uid, lease.spec):
            self._seen, self._seen_at = lease, self._clock.monotonic()
        self.holder = lease.spec.holder_identity

    def _expired(self, lease: Lease) -> bool:
        return self._clock.monotonic() - self._seen_at >= max(lease.spec.lease_duration_seconds, 1)

    def _claim(self, lease: Lease | None) -> LeaseSpec:
        now = micro_time(self._clock.now())
        old = LeaseSpec() if lease is None else lease.spec
        ours = old.holder_identity == self._identity
        return LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=self._terms.duration,
            acquire_time=old.acquire_time if ours else now,
            renew_time=now,
            lease_transitions=old.lease_transitions + (0 if ours else 1),
        )

    async def _write(self, lease: Lease, spec: LeaseSpec) -> Lease:
        changes: dict[str, Any] = msgspec.to_builtins(spec)
        changes.setdefault("holderIdentity", "")
        return await self._cluster.patch(
            Lease,
            self._name,
            {"spec": changes},
            self._namespace,
            when=Preconditions(uid=lease.metadata.uid, resource_version=lease.metadata.resource_version),
        )

    async def _release(self) -> None:
        """Give the Lease back, so that the next leader need not wait; a failure only costs the duration."""
        lease = self._seen
        if lease is None or lease.spec.holder_identity != self._identity:
            return
        now = micro_time(self._clock.now())
        given = msgspec.structs.replace(lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=now)

        async def write() -> bool:
            try:
                self._note(await self._write(lease, given))
            except UgalluError as error:
                self._failed(error)
            return True

        with anyio.CancelScope(shield=True):
            await self._within(self._terms.release, write)

    async def _within(self, seconds: float, call: Callable[[], Awaitable[bool]]) -> bool:
        """Return what `call` returns, False if it takes longer than `seconds` of our clock."""
        result = False
        async with anyio.create_task_group() as tasks:

            async def late() -> None:
                await self._clock.sleep(seconds)
                tasks.cancel_scope.cancel()

            tasks.start_soon(late)
            result = await call()
            tasks.cancel_scope.cancel()
        return result
