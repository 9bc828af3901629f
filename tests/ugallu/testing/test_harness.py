"""The harness, with the plug-in of the manual: what a plug-in author writes works as written."""

import datetime as dt
from collections.abc import Iterator

import msgspec
import pytest

from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import ForbiddenError
from ugallu.sdk import (
    Config,
    EventClass,
    EventType,
    ExternalKind,
    Finding,
    Operator,
    Parts,
    Platform,
    SecurityEvent,
    Severity,
    SigmaRule,
    Subject,
    external,
)
from ugallu.testing.harness import Granted, running

ODD_PORT = EventType("DNSOddPort", EventClass.DETECTION, Severity.MEDIUM)
OTHER = EventType("DNSOther", EventClass.DETECTION, Severity.MEDIUM)


class DnsQuery(msgspec.Struct, frozen=True):
    """A query as a resolver saw it."""

    qname: str
    port: int
    address: str

    @property
    def client(self) -> Subject:
        return external(ExternalKind.IP, self.address)

    @property
    def seen_at(self) -> dt.datetime:
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def correlation(self, cluster_id: str) -> str:
        return "c" * 32


class PortWatchConfig(Config, frozen=True):
    allowed_ports: frozenset[int] = frozenset({53, 853})


class OddPort:
    observes = DnsQuery

    def __init__(self, config: PortWatchConfig) -> None:
        self.allowed = config.allowed_ports

    def inspect(self, seen: DnsQuery) -> Iterator[Finding]:
        if seen.port not in self.allowed:
            yield Finding(ODD_PORT, seen.client, key=f"{seen.qname}:{seen.port}")


class PortWatch(Operator[PortWatchConfig]):
    name = "port-watch"
    config = PortWatchConfig
    emits = (ODD_PORT,)

    def build(self, config: PortWatchConfig, platform: Platform) -> Parts:
        return Parts(detectors=[OddPort(config)])


class Forgetful(PortWatch):
    """As PortWatch, but it declares another type than it emits."""

    name = "forgetful"
    emits = (OTHER,)


async def test_a_query_on_an_odd_port_becomes_an_event() -> None:
    """The plug-in of the manual, published to and listened for."""
    async with running(PortWatch) as run:
        await run.publish(DnsQuery("ok.example.", 53, "10.0.0.1"), DnsQuery("bad.example.", 5353, "10.0.0.1"))
        (event,) = await run.events()
        assert event.spec.type == "DNSOddPort"
        assert event.spec.subject.name == "10.0.0.1"
        assert event.spec.source.name == "ugallu-port-watch"


async def test_the_cluster_may_be_the_tests_own() -> None:
    """An embedded cluster that the test made is used, and left open."""
    embedded = EmbeddedCluster.in_memory()
    async with running(PortWatch, cluster=embedded) as run:
        await run.publish(DnsQuery("bad.example.", 5353, "10.0.0.1"))
        (event,) = await run.events()
    assert await embedded.get(SecurityEvent, event.metadata.name) == event
    await embedded.close()


async def test_a_detector_needs_no_harness() -> None:
    """So small a detector is tested by calling it."""
    found = list(OddPort(PortWatchConfig()).inspect(DnsQuery("bad.example.", 5353, "10.0.0.1")))
    assert [finding.key for finding in found] == ["bad.example.:5353"]


async def test_a_type_that_was_not_declared_fails_the_test() -> None:
    """An operator that emits what it does not declare is caught where it is written."""
    with pytest.raises(AssertionError, match="does not declare"):  # noqa: PT012 - the block is the subject
        async with running(Forgetful) as run:
            await run.publish(DnsQuery("bad.example.", 5353, "10.0.0.1"))
            await run.events()


async def test_a_verb_that_was_not_declared_is_refused() -> None:
    """What RBAC would refuse in a cluster is refused in a test."""
    embedded = EmbeddedCluster.in_memory()
    lent = Granted(embedded, PortWatch())
    with pytest.raises(ForbiddenError, match="delete sigmarules was never declared"):
        await lent.delete(SigmaRule, "x")
    with pytest.raises(ForbiddenError, match="patch securityevents/status was never declared"):
        await lent.patch_status(SecurityEvent, "x", {})
    await embedded.close()


async def test_observations_of_several_batches_are_numbered_on() -> None:
    """Publishing twice is one stream: nothing is taken for a repetition."""
    async with running(PortWatch) as run:
        await run.publish(DnsQuery("a.example.", 1, "10.0.0.1"))
        await run.publish(DnsQuery("b.example.", 1, "10.0.0.1"))
        assert len(await run.events()) == 2
