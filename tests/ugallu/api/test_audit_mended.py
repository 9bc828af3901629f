"""Records that a client made unreadable are read all the same."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditRecord, json_of, mended

decode = msgspec.json.Decoder(AuditRecord).decode


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (rb'{"a":"\ud800","image":"evil"}', "evil"),
        (rb'{"a":"\udc00\\\ud800","image":"evil"}', "evil"),
        (rb'{"a":"\ud83d\ude00","image":"evil"}', "\U0001f600"),
        (rb'{"a":"\\ud800","image":"evil"}', "\\ud800"),
        (b'{"a":"\xff\xfe","image":"evil"}', "evil"),
        (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b',"image":"evil"}', "evil"),
        (b'{"a":"[[[{{",' + b'"b":' + b'{"x":' * 3000 + b"1" + b"}" * 3000 + b',"image":"evil"}', "[[[{{"),
    ],
)
def test_a_client_cannot_make_its_record_unreadable(body: bytes, kept: str) -> None:
    """What Go reads and our decoder refuses is mended, and the rest of the record stays as it was."""
    record = decode(mended(b'{"verb":"patch","requestObject":' + body + b"}"))
    assert record.verb == "patch"
    found = json_of(record.request_object)
    assert found["image"] == "evil"
    assert kept in found.values()


@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=10,
    ),
    plain=st.booleans(),
)
def test_sound_json_is_left_alone(value: object, plain: bool) -> None:
    """Mending changes nothing that any decoder reads."""
    text = json.dumps(value, ensure_ascii=plain).encode()
    assert mended(text) == text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_mending_takes_any_bytes(text: bytes) -> None:
    """Whatever stands in a line, mending ends and gives valid UTF-8."""
    mended(text).decode()
