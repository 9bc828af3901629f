"""What an event may hold."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.event import (
    MAX_SIGNAL_BYTES,
    MAX_SIGNALS,
    ClusterIdentity,
    EvidenceRef,
    SecurityEventSpec,
    SourceRef,
)
from ugallu.api.meta import ObjectReference
from ugallu.api.snapshots import ContainerInfo, PodSubject
from ugallu.api.subject import Subject
from ugallu.emit.limits import (
    MAX_KEY_BYTES,
    MAX_SPEC_BYTES,
    clean,
    fit_signals,
    fit_spec,
    fit_subject,
    one_discriminator,
)
from ugallu.testing.emission import EPOCH

WILD = st.text(st.characters(), max_size=60)


def spec(**fields: object) -> SecurityEventSpec:
    base = SecurityEventSpec(
        class_=EventClass.DETECTION,
        type="ExecIntoPod",
        severity=Severity.LOW,
        cluster_identity=ClusterIdentity(),
        source=SourceRef(kind="Operator", name="x"),
        subject=Subject(kind="Pod", name="p"),
        detected_at=EPOCH,
    )
    return msgspec.structs.replace(base, **fields)


def size(signals: dict[str, str]) -> int:
    return sum(len(k.encode()) + len(v.encode()) for k, v in signals.items())


def test_what_fits_is_untouched() -> None:
    """Ordinary signals pass as they are, in a map of their own."""
    signals = {"user": "eve", "uri": "/api/v1/pods?watch=1", "word": "naïve 漢字"}
    fitted = fit_signals(signals)
    assert fitted == signals
    assert fitted is not signals


def test_what_does_not_print_is_escaped() -> None:
    """Terminal escapes, line breaks, bidirectional marks and lone surrogates become visible text."""
    assert clean("a\x1b[2J\n\u202e\ud800\U000e0001") == r"a\x1b[2J\x0a\u202e\ud800\U000e0001"


@settings(max_examples=100)
@given(st.dictionaries(WILD, WILD | st.text("v", min_size=2000, max_size=12000), max_size=160))
def test_limits_always_hold(signals: dict[str, str]) -> None:
    """Whatever comes in fits the API's limits, prints, and is marked when something is missing."""
    before = dict(signals)
    fitted = fit_signals(signals, {"resolver_error": "down"})
    assert signals == before
    assert len(fitted) <= MAX_SIGNALS
    assert size(fitted) <= MAX_SIGNAL_BYTES
    assert all(text.isprintable() for pair in fitted.items() for text in pair)
    assert fitted["resolver_error"] == "down"
    whole = {clean(k): clean(v, 1 << 20) for k, v in signals.items()} | {"resolver_error": "down"}
    assert (fitted == whole) != (fitted.get("signals.truncated") == "true")


def test_a_key_that_grows_too_long_is_marked() -> None:
    """Escaping makes a key longer; one that no longer fits is cut and the event says so."""
    fitted = fit_signals({"\x1f" * 40: ""})
    assert fitted["signals.truncated"] == "true"
    assert max(len(key.encode()) for key in fitted) <= MAX_KEY_BYTES


def test_long_values_pay_for_short_ones() -> None:
    """One huge value does not push out the short ones behind it."""
    fitted = fit_signals({"body": "x" * 100_000, "user": "eve", "verb": "create"})
    assert (fitted["user"], fitted["verb"]) == ("eve", "create")
    assert 7000 < len(fitted["body"]) < MAX_SIGNAL_BYTES


def test_large_snapshot_loses_its_largest_part() -> None:
    """A snapshot over the limit loses what is large and keeps the rest; it says that it is partial."""
    containers = tuple(ContainerInfo(name=f"c{n}", image="i" * 900) for n in range(100))
    pod = PodSubject(node_name="node-1", service_account_name="sa", containers=containers)
    fitted = fit_spec(spec(subject=Subject(kind="Pod", name="p", uid="u", pod=pod, labels={"app": "shop"})))
    assert len(msgspec.json.encode(fitted)) <= MAX_SPEC_BYTES
    subject = fitted.subject
    assert subject.pod is not None
    assert (subject.pod.node_name, subject.pod.containers) == ("node-1", ())
    assert (subject.labels, subject.partial, subject.unresolved) == ({"app": "shop"}, True, False)


def test_nothing_optional_left() -> None:
    """When even the required parts are too large only the coordinates stay, unresolved."""
    subject = fit_subject(Subject(kind="Pod", name="p" * 5000, labels={"a": "b"}), 1000)
    assert len(msgspec.json.encode(subject)) <= 1000
    assert (subject.unresolved, subject.partial, subject.labels) == (True, True, {})


def test_long_lists_are_cut_and_marked() -> None:
    """Hundreds of parents and evidence references are cut, with a mark; absurd ones go altogether."""
    refs = tuple(ObjectReference(kind="SecurityEvent", name=f"se-{n}") for n in range(300))
    fitted = fit_spec(spec(parents=refs))
    assert len(fitted.parents) == 64
    assert fitted.signals == {"lists.truncated": "true"}
    absurd = fit_spec(spec(evidence=(EvidenceRef(media_type="x", url="u" * 100_000),)))
    assert absurd.evidence == ()
    assert len(msgspec.json.encode(absurd)) <= MAX_SPEC_BYTES


def test_one_discriminator_or_unresolved() -> None:
    """Foreign discriminators go, and without its own the subject is unresolved."""
    pod = PodSubject(node_name="n")
    assert one_discriminator(Subject(kind="Node", name="n", pod=pod)) == Subject(kind="Node", name="n", unresolved=True)
    kept = Subject(kind="Pod", name="p", pod=pod)
    assert one_discriminator(kept) is kept
