"""Levels: which resources come without bodies, in bounded memory."""

from ugallu.metrics import Metrics
from ugallu.testing.audit import audit_record
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.levels import MAX_RESOURCES, Levels


def test_memory_is_bounded() -> None:
    """A client that invents resources fills a table of fixed size."""
    levels = Levels()
    for stamp in ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"):
        levels.note(
            [
                audit_record(verb="create", objectRef={"resource": f"r{index}"}, stageTimestamp=stamp)
                for index in range(MAX_RESOURCES + 100)
            ]
        )
    assert len(levels.bodiless(None, None)) == MAX_RESOURCES


def test_reads_and_subresources_say_nothing() -> None:
    """Only a write of the object itself would carry its body."""
    levels = Levels()
    for stamp in ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"):
        scale = {"resource": "deployments", "apiGroup": "apps", "subresource": "scale"}
        levels.note(
            [audit_record(stageTimestamp=stamp), audit_record(verb="patch", objectRef=scale, stageTimestamp=stamp)]
        )
    assert levels.bodiless(None, None) == []


def test_a_resource_is_asked_for_by_group_and_plural() -> None:
    """As a rule's dispatch names them; None is any."""
    levels = Levels()
    for stamp in ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"):
        ref = {"resource": "deployments", "apiGroup": "apps"}
        levels.note([audit_record(verb="create", objectRef=ref, stageTimestamp=stamp)])
    assert levels.bodiless(frozenset({"apps"}), None) == [("apps", "deployments")]
    assert levels.bodiless(None, frozenset({"pods"})) == []
    assert levels.bodiless(frozenset({"batch"}), frozenset({"deployments"})) == []


def test_invented_resources_take_no_room() -> None:
    """What the API server refuses is no resource, and a name may be as long as a URL."""
    levels = Levels()
    answers = [(f"r{index}", 404) for index in range(MAX_RESOURCES)] + [("x" * 100_000, 201), ("real", 201)]
    for stamp in ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"):
        levels.note(
            [
                audit_record(
                    verb="create", objectRef={"resource": name}, responseStatus={"code": code}, stageTimestamp=stamp
                )
                for name, code in answers
            ]
        )
    assert levels.bodiless(None, None) == [("", "real")]


def test_bodies_that_were_cut_off_are_counted() -> None:
    """Only where the level promises a body, and none came."""
    levels, metrics = Levels(), Metrics()
    cut = {"audit.k8s.io/truncated": "true"}
    levels.note(
        [
            audit_record(level="RequestResponse", annotations=cut),
            audit_record(level="Request", annotations=cut, verb="create"),
            audit_record(level="Request", annotations=cut, requestObject={"a": 1}),
            audit_record(level="Metadata", annotations=cut),
            audit_record(level="Request", annotations={"a": "true"}),
        ]
    )
    assert levels.cut == 2
    engine = Engine(metrics)
    for _ in range(2):
        list(engine.inspect_batch([audit_record(level="Request", annotations=cut)]))
    assert metrics.value("ugallu_audit_truncated_total") == 2


def test_events_are_counted_by_level() -> None:
    """What a doctor asks: what does the stream bring? A level that nobody knows makes no series of its own."""
    metrics = Metrics()
    engine = Engine(metrics)
    list(engine.inspect_batch([audit_record(level=level) for level in ("Metadata", "Request", "Metadata", "<odd>")]))
    list(engine.inspect_batch([audit_record(level="Metadata")]))
    assert metrics.value("ugallu_audit_events_total", level="Metadata") == 3
    assert metrics.value("ugallu_audit_events_total", level="Request") == 1
    assert metrics.value("ugallu_audit_events_total", level="other") == 1
