"""The audit decoder on hostile bytes: it ends, counts every line, and the fast road agrees with the slow one."""

from pathlib import Path

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
