"""The audit decoder on hostile bytes: it ends, counts every line, and the fast road agrees with the slow one."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditRecord, json_of, response_of, user_of
from ugallu.sources.audit_decode import AuditDecoder, salvage
from ugallu.sources.lines import Block

LINES = (Path(__file__).parents[2] / "data" / "audit" / "incident-lines" / "events.jsonl").read_bytes().splitlines()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real line with a few bytes changed, cut out, doubled or put in; no newline in it."""
    line = bytearray(draw(st.sampled_from(LINES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(line)))
        noise = draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"}", b"[", b",", b"\\", b"\xff", b"null", b"{}"])
        )
        cut = draw(st.integers(0, 12))
        line[at : at + cut] = noise
    return bytes(line).replace(b"\n", b"")


def slowly(line: bytes) -> tuple[list[AuditRecord], dict[str, int]]:
    decoder = AuditDecoder()
    return [record for _, record in decoder.line(line)], decoder.counts


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"")) | mutated())
def test_any_line(line: bytes) -> None:
    """Any bytes are one record, several, one rejected line or none; the books close, and raw parts can be asked for."""
    records, counts = slowly(line)
    assert counts["received"] == counts["parsed"] + counts["rejected"]
    assert len(records) == counts["parsed"]
    for record in records:
        user_of(record.user)
        response_of(record.response_status)
        json_of(record.request_object)
        json_of(record.annotations)
        assert record.seen_at.tzinfo is not None
        record.correlation("c")


@settings(max_examples=200, deadline=None)
@given(st.lists(mutated() | st.sampled_from(LINES) | st.just(b""), min_size=1, max_size=6))
def test_fast_agrees_with_slow(lines: list[bytes]) -> None:
    """A block that the fast road takes gives the records and counts that its lines give one by one."""
    data = b"".join(line + b"\n" for line in lines)
    decoder = AuditDecoder()
    found = decoder.block(Block(data + b"rest", len(data)))
    if found is None:
        assert decoder.counts == {"received": 0, "parsed": 0, "rejected": 0}
        return
    expected: list[AuditRecord] = []
    for line in lines:
        records, counts = slowly(line)
        assert counts["rejected"] == 0
        expected += records
    assert found == expected
    assert decoder.counts["parsed"] == len(expected)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(LINES), st.integers(0, 5000), st.integers(0, 3000))
def test_salvage(line: bytes, head: int, ending: int) -> None:
    """Whatever is saved from the ends of a line agrees with the line, and never has a body."""
    whole = slowly(line)[0][0]
    saved = salvage(line[:head], line[len(line) - min(ending, len(line)) :])
    if saved is None:
        return
    assert saved.verb == whole.verb
    assert not saved.request_object
    assert not saved.response_object
    assert saved.stage_timestamp in ("", whole.stage_timestamp)
    assert saved.audit_id in ("", whole.audit_id)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_salvage_noise(head: bytes, ending: bytes) -> None:
    """Noise is no crash."""
    salvage(head, ending)
    salvage(LINES[0][:200] + head, ending)


def test_all_recorded_lines_are_taken_fast() -> None:
    """Real lines never need the slow road."""
    data = b"\n".join(LINES) + b"\n"
    records = AuditDecoder().block(Block(data, len(data)))
    assert records is not None
    assert len(records) == len(LINES)


HOSTILE = {
    "a lone surrogate": b'{"a":"\\ud800"}',
    "a surrogate turned round": b'{"a":"\\udc00\\ud800"}',
    "bytes that are no UTF-8": b'{"a":"\xff\xfe"}',
    "nesting": b"[" * 5000 + b"]" * 5000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", ["line", "list", "block"])
def test_no_client_hides_its_request(body: bytes, shape: str) -> None:
    """A patch stands in the log as its client wrote it: what the API server reads is a record here too, and counted."""
    event = (
        b'{"verb":"patch","auditID":"a","objectRef":{"name":"victim"},"requestObject":' + body + b',"stage":"Panic"}'
    )
    decoder = AuditDecoder()
    if shape == "block":
        block = Block(LINES[0] + b"\n" + event + b"\n", len(LINES[0]) + len(event) + 2)
        records = decoder.block(block)
        if records is None:
            records = [record for line in block.lines() for _, record in decoder.line(line)]
        records = records[1:]
    else:
        text = event if shape == "line" else b'{"kind":"EventList","items":[' + event + b"," + event + b"]}"
        records = [record for _, record in decoder.line(text)]
    assert [(record.verb, record.stage) for record in records] == [("patch", "Panic")] * len(records)
    assert records
    assert records[0].object_ref is not None
    assert records[0].object_ref.name == "victim"
    assert decoder.counts["rejected"] == 0
    if b"\xff" not in body:  # a body is looked at only when a rule asks, and mended then
        assert decoder.counts["mended"] == 1


def test_what_nobody_reads_is_still_rejected() -> None:
    """Mending is for what the API server takes; other lines are rejected as before, once, and not counted as mended."""
    decoder = AuditDecoder()
    for line in (b'{"verb":"get"', b'{"verb":"get","requestObject":"\\ud800', b"\xff", b'{"verb":7,"x":"\\ud800"}'):
        assert list(decoder.line(line)) == []
    assert decoder.counts == {"received": 4, "parsed": 0, "rejected": 4, "rejected.json": 3, "rejected.shape": 1}


def test_a_cut_line_is_mended_too() -> None:
    """The metadata of a line that is too long is saved although its client wrote a lone surrogate into the body."""
    head = b'{"verb":"patch","auditID":"a","requestObject":{"a":"\\ud800"},"responseObject":{"a":"' + b"x" * 100
    saved = salvage(
        head, b'xx"},"requestReceivedTimestamp":"2026-01-01T00:00:00Z","stageTimestamp":"2026-01-01T00:00:01Z"}'
    )
    assert saved is not None
    assert (saved.verb, saved.stage_timestamp) == ("patch", "2026-01-01T00:00:01Z")
    assert saved.request_object == msgspec.Raw(b"")
