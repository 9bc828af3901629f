"""What an older emitter got wrong, row by row: one test for each, and each must stay true."""

import inspect
import re

import anyio
import msgspec
import pytest

from ugallu.api.catalog import CATALOGUE, Severity
from ugallu.api.event import LABEL_CORRELATION, MAX_SIGNAL_BYTES, MAX_SIGNALS
from ugallu.api.observation import Finding
from ugallu.api.snapshots import NodeSubject
from ugallu.api.subject import Clue, Subject
from ugallu.cluster.port import ForbiddenError, UnavailableError
from ugallu.emit.emitter import JournalEmitter
from ugallu.errors import TransientError
from ugallu.settings import EmitSettings
from ugallu.testing.cluster import Call, Fault, FaultyCluster, unavailable
from ugallu.testing.emission import Emission, Lookup, finding, numbered, pumping

LABEL = re.compile(r"[0-9a-f]{32}")


def about(subject: Subject | Clue, key: str = "k", **fields: object) -> Finding:
    return msgspec.structs.replace(finding(key), about=subject, **fields)


# Sheet "evidence", table 2.9


async def test_e1_subjects_without_uid_do_not_collapse() -> None:
    """E1: events of one type and minute about several subjects without a uid are all kept."""
    subjects = [Subject(kind="Node", name=f"node-{n}") for n in range(5)]
    subjects += [Subject(kind="Namespace", name="node-0"), Subject(kind="Node", name="node-0", namespace="x")]
    events = await Emission().settled(*[about(subject, correlation="") for subject in subjects])
    assert len(events) == 7


async def test_e2_two_rules_on_one_request() -> None:
    """E2: two rules that match the same request give two events with one correlation id."""
    events = await Emission().settled(finding("rule-a", correlation="f" * 32), finding("rule-b", correlation="f" * 32))
    assert len(events) == 2
    assert {event.spec.correlation_id for event in events} == {"f" * 32}


async def test_e3_input_is_never_changed() -> None:
    """E3: a finding that is submitted again an hour later is a new event: nothing was written into it."""
    rig = Emission()
    given = finding(correlation="", signals={"raw": "\x1b[31m"})
    before = msgspec.json.encode(given)
    await rig.settled(given)
    assert msgspec.json.encode(given) == before
    later = msgspec.structs.replace(given, detected_at=finding(second=3600).detected_at)
    assert len(await rig.settled(later)) == 2


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ConnectionResetError(), TimeoutError(), OSError("tls")])
async def test_e4_network_errors_are_not_permanent(error: OSError) -> None:
    """E4: during an outage of the API server findings wait; none is lost."""
    rig = Emission()
    down = [True]

    def plan(call: Call) -> Fault | None:
        if call.verb == "create" and down:
            raise error
        return None

    rig.cluster = FaultyCluster(rig.store, plan)
    await rig.emitter().submit(list(numbered(30)))
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(5):
            await rig.manual.advance(600)
        down.clear()
        for _ in range(5):
            await rig.manual.advance(60)
    assert len(await rig.events()) == 30
    assert outbox.books().dropped == {}


async def test_e5_retries_need_no_separate_start() -> None:
    """E5: whoever runs the outbox has retries running; until somebody does, readiness says so."""
    rig = Emission()
    outbox = rig.outbox()
    assert outbox.ready() == "outbox is not running"
    async with pumping(outbox):
        assert outbox.ready() == ""
    assert outbox.ready() == "outbox is not running"


async def test_e6_what_is_submitted_survives_the_process() -> None:
    """E6: findings that were never created are created by the next process, and a stop loses none."""
    rig = Emission()
    rig.cluster = cluster = FaultyCluster(rig.store, lambda call: unavailable() if call.verb == "create" else None)
    await rig.emitter().submit(list(numbered(10)))
    async with pumping(rig.outbox()):
        pass
    assert await rig.events() == []
    cluster.plan = lambda _: None
    assert len(await rig.settled()) == 10


@pytest.mark.parametrize("error", [TransientError("down"), UnavailableError("breaker open"), OSError("refused"), None])
async def test_e7_unresolved_when_the_resolver_is_down(error: Exception | None) -> None:
    """E7: with the resolver down or silent the event says unresolved and partial, with the reason, and is kept."""
    rig = Emission()
    clue = Clue("pod_ip", "10.0.0.9", kind="Pod", name="pod-a", namespace="shop")
    await rig.emitter(hydrator=Lookup({}, error=error)).submit([about(clue)])
    (event,) = await rig.settled()
    assert (event.spec.subject.unresolved, event.spec.subject.partial) == (True, True)
    assert event.spec.subject.name == "pod-a"
    assert event.spec.signals["resolver_error"]


async def test_e7_unresolved_whenever_no_discriminator() -> None:
    """E7: a subject without its kind's discriminator is unresolved, wherever it comes from."""
    events = await Emission().settled(
        about(Subject(kind="Pod", name="p"), "1"), about(Subject(kind="External", name="eve"), "2")
    )
    assert [event.spec.subject.unresolved for event in events] == [True, True]


async def test_e8_hydration_is_used() -> None:
    """E8: an emitter with a resolver fills the snapshot, asking once for a clue that many findings share."""
    rig = Emission()
    full = Subject(kind="Node", name="n1", uid="u1", node=NodeSubject(kernel_version="6.1"))
    lookup = Lookup({"10.0.0.9": full})
    clue = Clue("pod_ip", "10.0.0.9")
    await rig.emitter(hydrator=lookup).submit([about(clue, f"k{n}") for n in range(4)])
    events = await rig.settled()
    assert [event.spec.subject.node for event in events] == [full.node] * 4
    assert len(lookup.asked) == 1


async def test_e9_critical_does_not_wait_behind_info() -> None:
    """E9: with a slow pace a critical finding that comes last is created before a thousand of info."""
    rig = Emission()
    outbox = rig.outbox(settings=EmitSettings(creates_per_second=1))
    await rig.emitter().submit([*numbered(1000, severity=Severity.INFO), finding("c", severity=Severity.CRITICAL)])
    async with pumping(outbox):
        for _ in range(5):
            await rig.manual.advance(1)
    # The pump had read one chunk of the journal when its first tokens were spent.
    assert Severity.CRITICAL in [event.spec.severity for event in (await rig.events())[:3]]


async def test_e10_losses_are_reported_as_an_event() -> None:
    """E10: what the budget keeps out is told in `SourceRateLimited`, once a minute, with the counts by type."""
    rig = Emission()
    flood = [finding(f"k{n}", n, severity=Severity.LOW) for n in range(130)]
    events = await rig.settled(*flood, settings=EmitSettings(objects_per_hour=10))
    reports = [event.spec for event in events if event.spec.type == "SourceRateLimited"]
    assert [spec.signals["dropped.ExecIntoPod"] for spec in reports] == ["60", "60"]
    assert {spec.signals["reason"] for spec in reports} == {"object_budget"}
    assert {(spec.class_, spec.severity) for spec in reports} == {("Anomaly", Severity.MEDIUM)}


async def test_e11_correlation_label_is_always_legal() -> None:
    """E11: any correlation id gives a label of 32 hex digits; the id itself stays in the spec."""
    ids = ["x" * 200, "has spaces/and:more", "Ünïcode", "0" * 32, "A" * 32, "-"]
    events = await Emission().settled(*[finding(f"k{n}", n, correlation=i) for n, i in enumerate(ids)])
    assert all(LABEL.fullmatch(event.metadata.labels[LABEL_CORRELATION]) for event in events)
    assert {event.spec.correlation_id for event in events} == set(ids)


async def test_e12_repeats_and_rises_are_visible() -> None:
    """E12: repeats are counted in a closing event, and a rise of severity is an event at once."""
    repeats = [finding(second=n) for n in range(5)] + [finding(second=9, severity=Severity.CRITICAL)]
    events = await Emission().settled(*repeats)
    plain = [event for event in events if not event.spec.signals]
    (closing,) = [event for event in events if event.spec.signals]
    assert sorted(event.spec.severity for event in plain) == [Severity.CRITICAL, Severity.MEDIUM]
    assert closing.spec.severity is Severity.CRITICAL
    assert closing.spec.signals == {
        "occurrences": "6",
        "firstSeen": "2026-01-01T00:00:00Z",
        "lastSeen": "2026-01-01T00:00:09Z",
    }


async def test_e12_needs_no_right_to_read() -> None:
    """E12: none of this asks the cluster for more than create."""
    rig = Emission()
    rig.cluster = FaultyCluster(
        rig.store, lambda call: None if call.verb == "create" else Fault(ForbiddenError(call.verb))
    )
    events = await rig.settled(finding(), finding(second=1), finding(second=2, severity=Severity.HIGH))
    assert len(events) == 3


async def test_e13_too_much_is_cut_not_lost() -> None:
    """E13: too many and too long signals, odd kinds and huge snapshots are cut to what the API takes, and marked."""
    signals = {f"key-{n}": "v" * 500 for n in range(300)}
    huge = Subject(kind="Pod", name="p", labels={f"l{n}": "x" * 100 for n in range(2000)})
    odd = Subject(kind="Lease", name="kube-scheduler", namespace="kube-system")
    events = await Emission().settled(about(huge, "1", signals=signals), about(odd, "2", detected_at=None))
    big = next(event for event in events if event.spec.signals)
    assert big.spec.signals["signals.truncated"] == "true"
    assert len(big.spec.signals) <= MAX_SIGNALS
    assert sum(len(k) + len(v) for k, v in big.spec.signals.items()) <= MAX_SIGNAL_BYTES
    assert big.spec.subject.partial
    assert len(msgspec.json.encode(big)) <= 64 * 1024
    small = next(event for event in events if not event.spec.signals)
    assert small.spec.subject.external is not None
    assert small.spec.subject.external.identity == "Lease/kube-system/kube-scheduler"


async def test_e13_errors_do_not_reach_the_caller() -> None:
    """E13: findings that break the rules are counted by reason; the others of the same call become events."""
    rig = Emission()
    emitter = rig.emitter(emits=frozenset({"ExecIntoPod"}))
    await emitter.submit(
        [
            finding(type_=CATALOGUE["HostPIDPod"]),
            about(Subject(kind="", name="")),
            finding("bad\ud800key"),
            finding(),
        ]
    )
    events = await rig.settled()
    outbox = rig.outbox()
    await outbox.recover()
    assert outbox.books().dropped == {
        "subject_missing": 1,
        "undeclared_type": 1,
        "unencodable": 1,
    }
    assert sum(event.spec.type == "ExecIntoPod" for event in events) == 1
    assert sum(event.spec.type == "SourceRateLimited" for event in events) == 3


async def test_e14_provenance() -> None:
    """E14: the source is an Operator by name and version, and a W3C traceparent is always there."""
    rig = Emission()
    await rig.emitter(version="1.2", instance="pod-7").submit([finding(correlation="c" * 32), finding("2", 1)])
    given = "00-11111111111111111111111111111111-2222222222222222-01"
    await rig.emitter().submit([finding("3", 2, traceparent=given), finding("4", 3, traceparent="junk")])
    events = sorted(await rig.settled(), key=lambda event: event.spec.detected_at)
    source = events[0].spec.source
    assert (source.kind, source.name, source.version, source.instance) == ("Operator", "ugallu-test", "1.2", "pod-7")
    assert source.api_version == "security.ugallu.io/v1alpha1"
    assert events[0].spec.traceparent.startswith(f"00-{'c' * 32}-")
    assert events[2].spec.traceparent == given
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", event.spec.traceparent) for event in events)


# Sheet "detection", table 1.5


async def test_w1_which_rule_survives_is_not_random() -> None:
    """W1: two rules that match one request both survive, in whatever order they are evaluated."""
    pair = [finding("rule-a", correlation="f" * 32), finding("rule-b", correlation="f" * 32)]
    one = await Emission().settled(*pair)
    other = await Emission().settled(*reversed(pair))
    assert {event.metadata.name for event in one} == {event.metadata.name for event in other}
    assert len(one) == 2


async def test_w2_a_client_cannot_hide_behind_an_id() -> None:
    """W2: a correlation id used again for other acts, or one that is no label, hides and loses nothing."""
    reused = [finding(f"rule-{n}", n, name=f"pod-{n}", correlation="same-id") for n in range(5)]
    later = [finding("rule-0", 5000, name="pod-0", correlation="same-id")]
    evil = [finding("evil", 1, correlation="../" * 100)]
    assert len(await Emission().settled(*reused, *later, *evil)) == 7


async def test_w3_subjects_without_a_name() -> None:
    """W3: creates with generateName, lists, watches and requests for no object are events with a name to fall back on."""
    nameless = [
        Subject(kind="Pod", name="", namespace="shop"),
        Subject(kind="Secret", name=""),
        Subject(kind="External", name=""),
    ]
    events = await Emission().settled(*[about(subject) for subject in nameless])
    assert sorted(event.spec.subject.name for event in events) == ["<cluster>", "<cluster>", "<shop>"]


async def test_w4_same_minute_different_decoy_or_actor() -> None:
    """W4: events of one minute about subjects without uid differ by decoy and by actor."""
    decoys = [Subject(kind="Secret", namespace="shop", name=name) for name in ("db", "api")]
    found = [about(decoy, actor, correlation="") for decoy in decoys for actor in ("eve", "mallory")]
    assert len(await Emission().settled(*found)) == 4


async def test_w5_submitting_never_waits_for_the_cluster() -> None:
    """W5: a flood is submitted while the cluster takes nothing at all; the detector is not held up."""
    rig = Emission()
    rig.cluster = FaultyCluster(rig.store, lambda _: unavailable())
    outbox = rig.outbox(settings=EmitSettings(creates_per_second=1))
    async with pumping(outbox):
        with anyio.fail_after(30):
            await rig.emitter().submit(list(numbered(2000)))
        assert outbox.books().emitted == 0
    assert rig.journal.last == 2000


async def test_w6_every_operator_shares_the_pump() -> None:
    """W6: findings of any operator are retried by the one outbox; an emitter has nothing to be started."""
    rig = Emission()
    for name in ("ugallu-honeypot", "ugallu-tenant-escape", "ugallu-webhook-auditor"):
        await rig.emitter(component=name).submit([finding()])
    assert {event.spec.source.name for event in await rig.settled()} == {
        "ugallu-honeypot",
        "ugallu-tenant-escape",
        "ugallu-webhook-auditor",
    }
    assert not any(name in dir(JournalEmitter) for name in ("start", "run"))


async def test_w7_restart_of_the_api_server() -> None:
    """W7: refused and reset connections while the API server restarts lose nothing."""
    rig = Emission()
    errors = [ConnectionRefusedError(), ConnectionResetError(), OSError("EOF"), UnavailableError("503")]

    def plan(call: Call) -> Fault | None:
        if call.verb == "create" and call.number < len(errors):
            raise errors[call.number]
        return None

    rig.cluster = FaultyCluster(rig.store, plan)
    await rig.emitter().submit(list(numbered(3)))
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(5):
            await rig.manual.advance(60)
    assert len(await rig.events()) == 3


async def test_w8_no_head_of_line_blocking() -> None:
    """W8: an event that fails for hours neither blocks the others nor is given up before a day has passed."""
    rig = Emission()
    first: list[str] = []

    def plan(call: Call) -> Fault | None:
        if not first:
            first.append(call.name)
        return unavailable() if call.name == first[0] else None

    rig.cluster = FaultyCluster(rig.store, plan)
    await rig.emitter().submit(list(numbered(50)))
    outbox = rig.outbox()
    async with pumping(outbox):
        assert len(await rig.events()) == 49
        for _ in range(20):
            await rig.manual.advance(3600)
        assert (outbox.pending, outbox.books().dropped) == (1, {})
        for _ in range(5):
            await rig.manual.advance(3600)
        assert outbox.books().dropped == {"retry_exhausted": 1}


async def test_w9_conflicts_are_counted_apart() -> None:
    """W9: a taken name is counted as idempotent or as a real conflict, by what the event there says."""
    rig = Emission()
    await rig.settled(finding(correlation="a" * 32))
    await rig.settled(finding(second=9000, correlation="a" * 32))

    def outcomes(name: str) -> float:
        return rig.metrics.value("ugallu_emitter_emits_total", **{"class": "Detection", "outcome": name})

    assert (outcomes("conflict_real"), outcomes("conflict_idempotent")) == (1, 0)
    rig.journal.entries.clear()
    rig.journal.cursors.clear()
    assert len(await rig.settled(finding(correlation="a" * 32))) == 2
    assert (outcomes("conflict_real"), outcomes("conflict_idempotent")) == (1, 1)


async def test_w10_shared_signals_are_not_touched() -> None:
    """W10: a signals map that many findings share is not changed, not even when enrichment fails."""
    rig = Emission()
    shared = {"user": "eve", "odd\n": "\x00"}
    clue = Clue("pod_ip", "10.0.0.9", name="pod-a")
    emitter = rig.emitter(hydrator=Lookup({}, error=TransientError("down")))
    await emitter.submit([about(clue, f"k{n}", signals=shared) for n in range(3)])
    assert shared == {"user": "eve", "odd\n": "\x00"}
    assert all("resolver_error" in event.spec.signals for event in await rig.settled())


def test_every_row_has_a_test() -> None:
    """E1 to E14 and W1 to W10: no row of the two tables is without a test here."""
    rows = {f"e{n}" for n in range(1, 15)} | {f"w{n}" for n in range(1, 11)}
    tested = {
        m.group(1)
        for name, _ in inspect.getmembers(inspect.getmodule(about))
        if (m := re.match(r"test_([ew]\d+)_", name))
    }
    assert tested == rows
