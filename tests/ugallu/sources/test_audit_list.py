"""What an audit webhook is sent, cut into events: whole, cut anywhere, broken inside, and nothing of the kind at all."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError
from ugallu.sources import audit_list
from ugallu.sources.audit_decode import AuditDecoder
from ugallu.sources.audit_list import GROUP_VERSION, listed, searched

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "[", "]}", "{", ",", '"items":[', '","', "\\\\", "\u2028"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.lists(st.builds(lambda more: {"verb": "get", "requestObject": more}, JSON), max_size=5)
STYLES = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def events_of(body: bytes | bytearray, *, whole: bool = True) -> list[bytes]:
    """Return what the webhook makes of a body."""
    found = listed(body) if whole else None
    return searched(body, whole=whole) if found is None else found


def document(events: list[Any], style: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"kind": "EventList", "apiVersion": GROUP_VERSION, **more, "items": events}, **style).encode()


@given(EVENTS, STYLES, st.dictionaries(TEXT.filter(lambda name: name not in {"kind", "apiVersion", "items"}), JSON))
@settings(max_examples=200)
def test_a_list_is_its_items(events: list[Any], style: dict[str, Any], more: dict[str, Any]) -> None:
    """Every event comes out as it went in, in order, whatever strings hold and whatever stands beside the items."""
    body = document(events, style, **{f"x{name}": value for name, value in more.items()})
    assert [json.loads(event) for event in events_of(body)] == events
    assert [json.loads(event) for event in events_of(bytearray(body), whole=False)] == events


@given(EVENTS, STYLES, st.data())
@settings(max_examples=200)
def test_cut_anywhere_the_complete_items_stay(events: list[Any], style: dict[str, Any], data: st.DataObject) -> None:
    """Of a body that ends early there are the first events: all that something follows, no half one, none invented."""
    body = document(events, style)
    whole = events_of(body)
    cut = data.draw(st.integers(0, len(body)))
    try:
        kept = events_of(body[:cut], whole=False)
    except PermanentError:
        assert body.index(b"items") + 8 >= cut
        return
    assert kept == whole[: len(kept)]
    complete, at = 0, 0
    for event in whole:
        at = body.index(event, at) + len(event)
        complete += len(body[at:cut].strip()) > 0
    assert len(kept) == complete


@given(st.binary(max_size=200) | st.text(alphabet='{}[],:"\\ inemstkd', max_size=80).map(str.encode), st.booleans())
@settings(max_examples=200)
def test_whatever_comes_it_is_events_or_an_error_that_says_so(body: bytes, whole: bool) -> None:
    """No bytes do anything else than that."""
    try:
        found = events_of(body, whole=whole)
    except PermanentError:
        return
    assert all(isinstance(event, bytes) for event in found)


@pytest.mark.parametrize(
    "broken",
    [
        b'{"verb":"get","auditID":"\xff\xfe"}',
        b'{"verb":"get","auditID":"\\ud800"}',
        b'{"verb":"get","requestObject":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"verb":}',
        b"{verb}",
        b"17",
    ],
    ids=["no UTF-8", "half a surrogate", "nested too deep", "no value", "no JSON", "no object"],
)
def test_an_item_that_cannot_be_decoded_costs_no_other(broken: bytes) -> None:
    """The events around it are there; what is told of it is told by the decoder, which knows to mend what a client did."""
    good = [b'{"verb":"list"}', b'{"verb":"watch","requestURI":"]}"}']
    body = (
        b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + b",".join([good[0], broken, good[1]]) + b"]}"
    )
    assert events_of(body) == [good[0], broken, good[1]]
    decoder = AuditDecoder()
    found = [record.verb for event in events_of(body) if (record := decoder.item(event)) is not None]
    assert (found[0], found[-1]) == ("list", "watch")
    assert decoder.counts["received"] == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"verb":"get"}',
        b'{"kind":"Event","apiVersion":"audit.k8s.io/v1"}',
        b'\n{"auditID":"\\ud800","kind":"Event","verb":"get"} \n',
    ],
)
def test_a_single_event_is_one(body: bytes) -> None:
    """Senders that forward events one by one need not wrap them; what is said beside the event may be left out."""
    assert events_of(body) == [body]


@pytest.mark.parametrize("items", ['"items":[]', '"items":null', '"metadata":{}'])
def test_an_empty_list_is_no_event(items: str) -> None:
    """It is written in three ways, and an API server is told 200 for each."""
    assert events_of(f'{{"kind":"EventList","apiVersion":"audit.k8s.io/v1",{items}}}'.encode()) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"kind":"PodList","apiVersion":"v1","items":[]}', "kind 'PodList'"),
        (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}', "apiVersion 'audit.k8s.io/v1beta1'"),
        (b'{"kind":"EventList","apiVersion":"v1","items":[{"verb":"get"}]}', "apiVersion 'v1'"),
        (b'{"kind":"EventList","items":7}', "items"),
        (b'{"kind":"PodList","items":[{"verb":"\xff"', "no JSON document|kind 'PodList'"),
        (b"{}", "neither items nor an event"),
        (b"[]", "Expected"),
        (b"null", "Expected"),
        (b"", "no JSON document"),
        (b"verb=get", "no JSON document"),
        (b'{"kind":"EventList","items":[{"verb":"get"}]', "no JSON document"),
        (b'{"kind":"EventList","items":[{"verb":"get"}]}{}', "no JSON document"),
        (b'{"kind":"EventList","items":[{"verb":"get"}]} trailing', "no JSON document"),
    ],
)
def test_what_is_no_list_of_audit_events_is_refused(body: bytes, why: str) -> None:
    """Silence would look like success: it says what it is instead, and what to post."""
    with pytest.raises(PermanentError, match=why) as caught:
        events_of(body)
    assert GROUP_VERSION in str(caught.value)


@pytest.mark.parametrize("window", [1, 7, 64])
@given(EVENTS, STYLES, st.data())
@settings(max_examples=50)
def test_however_much_is_looked_at_at_a_time(window: int, events: list[Any], style: dict[str, Any], data: Any) -> None:
    """A large body is searched piece by piece; where the pieces lie makes no difference, not even with nonsense inside."""
    body = document([*events, *events], style)
    at = data.draw(st.integers(body.index(b"items") + 9, len(body)))
    for text in (body, body[:at] + data.draw(st.sampled_from([b"nul", b"}", b"{", b'"', b"\xff", b","])) + body[at:]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit_list, "_WINDOW", window)
            small = searched(text, whole=False)
        assert small == searched(text, whole=False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"EventList","items":[' + b'"\\' * 500_000,
        b'{"kind":"EventList","items":[' + b"[" * 500_000,
        b'{"kind":"EventList","items":[{"a":"' + b"\\\\" * 500_000,
        b'{"kind":"EventList","items":[' + b"," * 500_000,
        b'{"kind":"EventList","items":[' + b"{nonsense}," * 100_000,
        b'{"kind":"EventList","items":[' + b'{"a":[nul]},' * 100_000,
        b'{"kind":"EventList","items":[{"a":' + b"[0," * 200_000,
        b"{" + b'"kind":' * 150_000,
    ],
)
def test_hostile_bodies_cost_no_more_than_their_length(body: bytes) -> None:
    """A megabyte made to be looked at again and again is done with in a second or two of this machine."""
    began = time.process_time()
    with contextlib.suppress(PermanentError):
        searched(body, whole=False)
    assert time.process_time() - began < 5


def test_a_large_body_that_ends_early() -> None:
    """What an API server gets no answer for it sends again: sixteen megabytes must not take half its patience."""
    one = b'{"verb":"get","requestObject":{"metadata":{"name":"x","labels":{"a":"b"}},"data":[1,2,{"k":"v"}]}}'
    count = (16 << 20) // len(one)
    body = b'{"kind":"EventList","items":[' + b",".join([one] * count)
    began = time.process_time()
    assert len(searched(body, whole=False)) == count - 1
    assert time.process_time() - began < 10
