"""The event bus as parts of the operator: what feeds it, what serves it, what says how it is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from ugallu.sdk import (
    CATALOGUE,
    AuditDetectionConfig,
    AuditDetectionConfigSpec,
    AuditDetectionConfigStatus,
    AuditRecord,
    Clock,
    Cluster,
    Condition,
    ConflictError,
    Emitter,
    EventBus,
    ExternalKind,
    Finding,
    NotFoundError,
    PermanentError,
    Preconditions,
    check_consumer,
    external,
    utc_seconds,
    with_condition,
)

if TYPE_CHECKING:
    import datetime as dt

NAME: Final = "default"
LOOK_SECONDS: Final = 5.0
REREAD: Final = 12
"""Looks without news after which the object is read all the same: somebody may have written over what we said."""
REPORT_SECONDS: Final = 60.0


class Feeder:
    """Hands every record to the bus, before any rule looks at it; finds nothing."""

    observes = AuditRecord

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def inspect(self, record: AuditRecord) -> Iterator[Finding]:
        """Hand over one record."""
        self._bus.offer((record,))
        return iter(())

    def inspect_batch(self, records: Sequence[AuditRecord]) -> Iterator[tuple[int, Finding]]:
        """Hand over a batch."""
        self._bus.offer(records)
        return iter(())


class Serving:
    """The server, with the settings of one version of the object."""

    name = "event bus"

    def __init__(self, bus: EventBus, config: AuditDetectionConfigSpec) -> None:
        self._bus = bus
        self._config = config

    async def run(self) -> None:
        """Serve until cancelled; raises as the bus does."""
        assert self._config.event_bus is not None
        await self._bus.serve(self._config.event_bus, self._config.consumers)


class Losses:
    """Says in an event, at most once a minute for each consumer, what the bus could not bring it."""

    name = "event bus losses"

    def __init__(self, bus: EventBus, emitter: Emitter, clock: Clock) -> None:
        self._bus = bus
        self._emitter = emitter
        self._clock = clock
        self._told: Counter[tuple[str, str]] = Counter(bus.dropped)

    async def run(self) -> None:
        """Look every minute until cancelled."""
        while True:
            await self._clock.sleep(REPORT_SECONDS)
            findings = self.look()
            if findings:
                await self._emitter.submit(findings)

    def look(self) -> list[Finding]:
        """Return what was lost since the last look."""
        now = Counter(self._bus.dropped)
        fresh, self._told = now - self._told, now
        found: dict[str, dict[str, int]] = {}
        for (consumer, reason), count in fresh.items():
            found.setdefault(consumer, {})[reason] = count
        return [
            Finding(
                type=CATALOGUE["SourceRateLimited"],
                about=external(ExternalKind.ENDPOINT, "ugallu-audit-detection-bus", source="ugallu"),
                key=f"bus|{consumer}",
                signals={
                    "reason": "event_bus",
                    "bus.consumer": consumer,
                    "dropped": str(sum(reasons.values())),
                    **{f"dropped.{reason}": str(count) for reason, count in sorted(reasons.items())},
                },
                detected_at=self._clock.now(),
            )
            for consumer, reasons in sorted(found.items())
        ]


class State:
    """What the object is to say of itself."""

    def __init__(self) -> None:
        self.invalid = ""
        """Why the newest version of the object is not in force."""
        self.loaded_at: dt.datetime | None = None


class Status:
    """Writes the object's status: whether the settings hold, whether the bus serves, who listens."""

    name = "event bus status"

    def __init__(self, bus: EventBus | None, state: State, cluster: Cluster, clock: Clock) -> None:
        self._bus = bus
        self._state = state
        self._cluster = cluster
        self._clock = clock
        self._said: tuple[str, str, int] | None = None
        self._looks = 0

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Write what has changed, if there is an object to write to."""
        bus = self._bus
        present = (self._state.invalid, bus.trouble if bus else "", bus.streams if bus else 0)
        self._looks += 1
        if present == self._said and self._looks < REREAD:
            return
        try:
            found = await self._cluster.get(AuditDetectionConfig, NAME)
            wanted = self._wanted(found)
            if wanted != found.status:
                patch = {
                    "conditions": msgspec.to_builtins(wanted.conditions),
                    "consumersConnected": wanted.consumers_connected,
                    "lastConfigLoadAt": msgspec.to_builtins(wanted.last_config_load_at),
                }
                when = Preconditions(resource_version=found.metadata.resource_version)
                await self._cluster.patch_status(AuditDetectionConfig, NAME, patch, when=when)
        except (ConflictError, NotFoundError):
            return  # somebody else was first, or there is none: the next look sees it
        self._said, self._looks = present, 0

    def _wanted(self, found: AuditDetectionConfig) -> AuditDetectionConfigStatus:
        generation = found.metadata.generation
        conditions = _placed(found.status.conditions, self._serving(generation))
        return msgspec.structs.replace(
            found.status,
            conditions=_placed(conditions, self._valid(generation)),
            last_config_load_at=self._state.loaded_at or found.status.last_config_load_at,
            consumers_connected=self._bus.streams if self._bus else 0,
        )

    def _serving(self, generation: int) -> Condition:
        if self._bus is None:
            return self._condition("BusServing", "False", "Disabled", "", generation)
        if self._bus.trouble:
            return self._condition("BusServing", "False", "CannotServe", self._bus.trouble, generation)
        return self._condition("BusServing", "True", "Serving", "", generation)

    def _valid(self, generation: int) -> Condition:
        if self._state.invalid:
            return self._condition("ConfigValid", "False", "InvalidConfig", self._state.invalid, generation)
        return self._condition("ConfigValid", "True", "Valid", "", generation)

    def _condition(self, kind: str, status: str, reason: str, message: str, generation: int) -> Condition:
        return Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=utc_seconds(self._clock.now()),
            observed_generation=generation,
        )


def _placed(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """As `with_condition`, but where the old one stood: others write conditions as well, and order is no news."""
    changed = with_condition(conditions, new)[-1]
    if all(old.type != new.type for old in conditions):
        return (*conditions, changed)
    return tuple(changed if old.type == new.type else old for old in conditions)


def check(config: AuditDetectionConfigSpec) -> None:
    """Raise `PermanentError` naming the field that cannot work."""
    names = [consumer.name for consumer in config.consumers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise PermanentError(
            f"the consumer {twice[0]!r} stands twice" if twice else "a consumer without a name",
            where=f"AuditDetectionConfig/default: spec.consumers[{names.index(twice[0] if twice else '')}].name",
            fix="give each consumer a name of its own",
        )
    for consumer in config.consumers:
        check_consumer(consumer)
