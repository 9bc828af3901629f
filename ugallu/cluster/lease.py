"""Leader election on a Lease.

Clocks of machines differ, so no time in a Lease is ever compared with ours: a candidate measures, on its own monotonic
clock, how long it has seen no change of the Lease, and a leader stops by its own clock before that can reach the
duration. Same protocol as client-go's `leaderelection`, so both can contend for one Lease.

What is promised: of all candidates, at most one finds `leads()` true at any moment, also when a process was stopped and
goes on, as long as no two clocks run apart by half and nobody deletes or edits the Lease. A request that was on its way
when leadership ended may still be carried out, so writes carry preconditions or deterministic names besides.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import msgspec

from ugallu.api.core import Lease, LeaseSpec, micro_time
from ugallu.api.meta import Metadata
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, NotFoundError, Preconditions
from ugallu.errors import ConflictError, PermanentError, UgalluError

LABELS: Final = {"app.kubernetes.io/part-of": "ugallu"}
"""On the Leases that we create."""


class Terms(msgspec.Struct, frozen=True):
    """Seconds: a lease lasts `duration` unseen; its holder renews it each `every`, and gives up after `renew` in vain.

    Whatever fails is tried again after `retry`; that is also how often the others look.
    """

    duration: int = 15
    renew: float = 10.0
    every: float = 4.0
    retry: float = 2.0
    release: float = 5.0
    """How long a leader that stops tries to give the lease back."""

    def __post_init__(self) -> None:
        if not self.retry <= self.every < self.renew < self.duration:
            raise PermanentError("retry <= every < renew < duration must hold", where="lease terms")


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
        """When it was first seen like this, monotonic."""
        self._sure = False
        """The Lease is as we wrote it last: renewing it needs no look before."""
        self._working = False
        self._until = 0.0
        """Until when we lead, monotonic, if we do."""

    def leads(self) -> bool:
        """Tell whether this candidate leads at this very moment, by its own clock: ask right before each act.

        It may turn false without any code having run: a process that was stopped finds out here.
        """
        return self._working and self._clock.monotonic() < self._until

    @property
    def leading(self) -> bool:
        """As `leads()`."""
        return self.leads()

    async def lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Wait for leadership, run `work` while it lasts; tell whether `work` ended by itself.

        False: leadership was lost and `work` was cancelled; call again to contend anew. The lease is given back on
        every way out but the loss of it.
        """
        finished = False
        try:
            await self._acquire()
            self._working = True
            async with anyio.create_task_group() as tasks:

                async def do() -> None:
                    nonlocal finished
                    await work()
                    finished = True
                    tasks.cancel_scope.cancel()

                tasks.start_soon(do)
                await self._hold()
                tasks.cancel_scope.cancel()
        finally:
            self._working = False
            await self._release()
        return finished

    async def _acquire(self) -> None:
        """Contend until the Lease is ours."""
        while not await self._turn(self._terms.renew):
            await self._clock.sleep(self._patience())

    async def _hold(self) -> None:
        """Renew; return when the Lease is lost, or when it may be for all we know."""
        pause = self._terms.every
        while (left := self._until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(pause, left))
            left = self._until - self._clock.monotonic()
            if left > 0 and await self._turn(left):
                pause = self._terms.every
            elif self.holder != self._identity:
                return
            else:
                pause = self._terms.retry

    async def _turn(self, seconds: float) -> bool:
        """Try to take or renew the Lease; tell whether it is ours, and still will be for a while.

        Our time counts from just before the request: the Lease may have been written any time after that.
        """
        asked = self._clock.monotonic()
        if not await self._within(seconds, self._try):
            self._sure = False
            return False
        self._until = asked + self._terms.renew
        return self._clock.monotonic() < self._until

    async def _try(self) -> bool:
        """Take or renew the Lease if nobody else holds it; tell whether it is ours now."""
        try:
            lease = self._seen if self._sure else await self._read()
            if self._is_held():
                return False
            if lease is None:
                stored = await self._cluster.create(
                    Lease(
                        metadata=Metadata(name=self._name, namespace=self._namespace, labels=LABELS),
                        spec=msgspec.structs.replace(self._claim(None), lease_transitions=0),
                    )
                )
            else:
                stored = await self._write(lease, self._claim(lease))
        except ConflictError:
            # Somebody was faster, or it was us and the answer got lost: the next look tells.
            await self._look()
            return False
        except UgalluError as error:
            self._failed(error)
            return False
        self._note(stored)
        self._sure = True
        return True

    async def _read(self) -> Lease | None:
        try:
            lease = await self._cluster.get(Lease, self._name, self._namespace)
        except NotFoundError:
            return None
        self._note(lease)
        return lease

    async def _look(self) -> None:
        try:
            await self._read()
        except UgalluError as error:
            self._failed(error)

    def _note(self, lease: Lease) -> None:
        seen = self._seen
        if seen is None or (seen.metadata.uid, seen.spec) != (lease.metadata.uid, lease.spec):
            self._seen_at = self._clock.monotonic()
        self._seen, self.holder = lease, lease.spec.holder_identity

    def _is_held(self) -> bool:
        """Whether somebody else may lead: one whose Lease was deleted learns of it only at his next renewal."""
        return self.holder not in ("", self._identity) and self._left() > 0

    def _left(self) -> float:
        """Seconds until the Lease is nobody's, unless it changes."""
        seconds = 0 if self._seen is None else max(self._seen.spec.lease_duration_seconds, 1)
        return self._seen_at + seconds - self._clock.monotonic()

    def _patience(self) -> float:
        """Seconds to the next try: when the Lease may be taken, but look before."""
        left = self._left()
        return left if 0 < left < self._terms.retry else self._terms.retry

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
