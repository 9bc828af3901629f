"""Filters, caps, priorities, and the numbers by which a gap is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.audit import AuditObject, AuditRecord
from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, AuditDetectionPriority
from ugallu.bus.lanes import HISTORY, RATE, Lane, Verdict, check_consumer, globs, passes, urgent
from ugallu.errors import PermanentError
from ugallu.testing.audit import audit_record

DECOY = audit_record(objectRef={"resource": "secrets", "namespace": "shop", "name": "db-backup"})


def lane(cap: int = 0, *priority: AuditDetectionPriority) -> Lane:
    return Lane(AuditDetectionConsumer(name="c", max_events_per_sec=cap, priority=priority), 0)


@pytest.mark.parametrize(
    ("wanted", "changes", "verdict"),
    [
        ({}, {}, True),
        ({}, {"stage": "RequestReceived"}, False),
        ({}, {"stage": "ResponseStarted"}, True),
        ({}, {"stage": "Panic"}, True),
        ({"stages": ("RequestReceived",)}, {"stage": "RequestReceived"}, True),
        ({"stages": ("RequestReceived",)}, {}, False),
        ({"verb_allowlist": ("get", "list")}, {}, True),
        ({"verb_allowlist": ("list",)}, {}, False),
        ({"object_ref_has_namespace": True}, {}, True),
        ({"object_ref_has_namespace": True}, {"objectRef": {"resource": "nodes", "name": "n"}}, False),
        ({"object_ref_has_namespace": True}, {"objectRef": None}, False),
        ({"resource_allowlist": ("pods",)}, {}, True),
        ({"resource_allowlist": ("/pods",)}, {}, True),
        ({"resource_allowlist": ("*",)}, {}, True),
        ({"resource_allowlist": ("apps/*", "/p?ds")}, {}, True),
        ({"resource_allowlist": ("apps/*",)}, {}, False),
        ({"resource_allowlist": ("apps/*",)}, {"objectRef": {"resource": "deployments", "apiGroup": "apps"}}, True),
        ({"resource_allowlist": ("pods",)}, {"objectRef": {"resource": "pods", "apiGroup": "metrics.k8s.io"}}, False),
        ({"resource_allowlist": ("pods",)}, {"objectRef": None}, False),
        ({"resource_allowlist": ("[p]ods",)}, {}, False),
        ({"namespace_denylist": ("shop",)}, {}, False),
        ({"namespace_denylist": ("kube-system",)}, {}, True),
        ({"namespace_denylist": ("shop",)}, {"objectRef": None}, True),
    ],
)
def test_an_event_passes_when_every_part_lets_it(
    wanted: dict[str, object], changes: dict[str, object], verdict: bool
) -> None:
    """An empty part lets all pass; stages default to those in which a request is decided."""
    assert passes(AuditDetectionConsumerFilter(**wanted))(audit_record(**changes)) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ref", "verdict"),
    [
        ({"resource": "secrets", "namespace": "shop", "name": "db-backup"}, True),
        ({"resource": "secrets", "namespace": "shop", "name": "db"}, False),
        ({"resource": "secrets", "namespace": "other", "name": "db-backup"}, False),
        ({"resource": "pods", "namespace": "shop", "name": "db-backup"}, False),
        ({"resource": "secrets", "namespace": "shop"}, True),
        ({"resource": "secrets"}, True),
    ],
)
def test_a_request_that_names_no_object_may_be_about_the_decoy(ref: dict[str, str], verdict: bool) -> None:
    """Who lists all Secrets has read the decoy as well."""
    about = urgent([AuditDetectionPriority(resources=("secrets",), namespaces=("shop",), names=("db-b*",))], "")
    assert about(AuditObject(**ref)) is verdict


@pytest.mark.parametrize("pattern", ["", "x" * 513, "*" * 9])
def test_a_pattern_has_bounds(pattern: str) -> None:
    """The field is named, and what is allowed."""
    with pytest.raises(PermanentError, match="there: the pattern"):
        globs([pattern], "there")
    with pytest.raises(PermanentError, match=r"consumer c: filter\.resourceAllowlist"):
        check_consumer(
            AuditDetectionConsumer(name="c", filter=AuditDetectionConsumerFilter(resource_allowlist=(pattern,)))
        )


def test_lists_have_bounds() -> None:
    """Nobody hands us a million patterns."""
    with pytest.raises(PermanentError, match="at most 256"):
        globs(["a"] * 257, "")
    with pytest.raises(PermanentError, match="at most 256"):
        urgent([AuditDetectionPriority()] * 257, "")


def test_a_stage_that_there_is_not_is_named() -> None:
    """A typo would let nothing pass."""
    with pytest.raises(PermanentError, match="no stage: 'ResponseCompleted'"):
        check_consumer(
            AuditDetectionConsumer(name="c", filter=AuditDetectionConsumerFilter(stages=("ResponseCompleted",)))
        )


def test_a_cap_is_the_consumers() -> None:
    """So many at once, so many a second; the rest is dropped and counted."""
    one = lane(3)
    assert [one.judge(audit_record(), 0.0) for _ in range(5)] == 3 * [Verdict.KEPT] + 2 * [Verdict.DROPPED]
    assert one.judge(audit_record(), 1.0) is Verdict.KEPT
    assert dict(one.dropped) == {RATE: 2}


def test_noise_takes_nothing_from_the_decoy() -> None:
    """W6: an attacker who makes noise to hide the read of a decoy makes noise, and the read is kept."""
    one = lane(5, AuditDetectionPriority(names=("db-backup",)))
    noise = [one.judge(audit_record(), 0.0) for _ in range(1000)]
    assert noise.count(Verdict.DROPPED) == 995
    assert one.judge(DECOY, 0.0) is Verdict.PRECIOUS


def test_what_is_precious_is_so_without_a_cap_and_beyond_its_own() -> None:
    """It outlives noise in the buffer, whichever budget let it through."""
    decoy = AuditDetectionPriority(names=("db-backup",))
    assert lane(0, decoy).judge(DECOY, 0.0) is Verdict.PRECIOUS
    one = lane(2, decoy)
    assert [one.judge(DECOY, 0.0) for _ in range(5)] == 4 * [Verdict.PRECIOUS] + [Verdict.DROPPED]


def test_a_stream_may_say_what_is_precious_to_it() -> None:
    """A hint holds as long as the stream."""
    one = lane(1)
    one.judge(audit_record(), 0.0)
    one.hint("stream", [AuditDetectionPriority(names=("db-backup",))])
    assert one.judge(DECOY, 0.0) is Verdict.PRECIOUS
    one.hint("stream", ())
    assert one.judge(DECOY, 0.0) is Verdict.DROPPED


def test_new_settings_keep_what_is_used_up() -> None:
    """A change of the object is no way to a full bucket."""
    one = lane(10)
    for _ in range(10):
        one.judge(audit_record(), 0.0)
    one.configure(AuditDetectionConsumer(name="c", max_events_per_sec=20))
    assert one.judge(audit_record(), 0.0) is Verdict.DROPPED
    one.configure(AuditDetectionConsumer(name="c"))
    assert one.judge(audit_record(), 0.0) is Verdict.KEPT


@given(st.lists(st.sampled_from(["keep", "drop", "filter"]), max_size=60), st.integers(0, 70))
def test_every_event_that_passes_has_a_number(steps: list[str], asked: int) -> None:
    """Behind any sequence stand as many events as passed the filter after it, kept or dropped."""
    one = lane()
    passed: list[int] = []
    kept: list[int] = []
    for sequence, step in enumerate(steps, 1):
        if step == "filter":
            one.judge(audit_record(stage="RequestReceived"), 0.0)
            continue
        one.judge(audit_record(), 0.0)
        passed.append(sequence)
        if step == "keep":
            one.keep(sequence)
            kept.append(sequence)
    # Only what a stream was told is asked for: an event that was kept, or the end.
    after = max([sequence for sequence in kept if sequence <= asked], default=0)
    index, before = one.behind(after)
    assert before == len([sequence for sequence in passed if sequence <= after])
    later = [one.place(at).sequence for at in range(index, one.end)]
    assert later == [sequence for sequence in kept if sequence > after]


def test_what_is_forgotten_is_not_guessed() -> None:
    """The oldest numbers go; whoever resumes before them is not told a number that nobody knows."""
    one = lane()
    record = AuditRecord(verb="get")
    for sequence in range(1, 2 * HISTORY + 1):
        one.judge(record, 0.0)
        one.keep(sequence)
    assert one.first == HISTORY
    assert one.behind(HISTORY - 1) == (HISTORY, None)
    assert one.behind(HISTORY) == (HISTORY, HISTORY)
    assert one.behind(HISTORY + 5) == (HISTORY + 5, HISTORY + 5)


def test_while_nobody_listens_nothing_is_numbered() -> None:
    """A gap that began then cannot be told to the event, and is not."""
    one = lane()
    one.judge(audit_record(), 0.0)
    one.keep(1)
    one.rest(50)
    assert one.behind(1) == (1, None)
    assert one.behind(50) == (1, 1)
