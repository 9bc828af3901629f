"""Keywords: found in any text of an event, within bounds that no client can use to hide behind or to stop the matcher."""

import json
from typing import Any

import msgspec
import pytest

from ugallu.sdk import AuditRecord, SigmaEmit, SigmaRuleSpec
from ugallu_audit_detection.sigma import keywords
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.view import RecordView

EMIT = SigmaEmit(security_event_type="KubernetesAPICall", severity="low")  # type: ignore[arg-type]


def rule(words: list[str] | dict[str, Any]) -> CompiledRule:
    text = {
        "title": "t",
        "logsource": {"product": "kubernetes", "service": "audit"},
        "detection": {"words": words, "condition": "words"},
    }
    return compile_rule("r", SigmaRuleSpec(sigma=json.dumps(text), emit=EMIT))


def view_of(body: Any) -> RecordView:
    line = json.dumps({"verb": "patch", "requestObject": body, "user": {"username": "alice"}})
    return RecordView(msgspec.json.decode(line, type=AuditRecord))


def hits(words: list[str] | dict[str, Any], body: Any) -> bool:
    return rule(words).holds(view_of(body))


@pytest.mark.parametrize(
    ("word", "body", "expected"),
    [
        ("evil", {"a": "an EVIL word"}, True),
        ("evil*word", {"a": "an EVIL word"}, True),
        ("evil?word", {"a": "an EVIL word"}, True),
        ("evil*word", {"a": "evil", "b": "word"}, False),
        ("evil?word", {"a": "evil", "b": "word"}, False),
        ("evil*word", ["evil", "word", "an evil little word"], True),
        ("ALICE", {}, True),
        ("evil", {"evil": 1}, False),
    ],
)
def test_a_keyword_is_found_inside_one_text(word: str, body: Any, expected: bool) -> None:
    """Whatever the case; never across two texts, and never in a key."""
    assert hits([word], body) is expected
    assert hits(["nowhere*at*all", word, "not?here"], body) is expected
    assert hits({"|all": ["*", word]}, body) is expected


def test_a_word_may_stand_in_a_body_that_was_cut_off() -> None:
    """So nobody knows that it is absent; one that is seen elsewhere is there."""
    text = {
        "title": "t",
        "logsource": {"product": "kubernetes", "service": "audit"},
        "detection": {"words": ["evil"], "condition": "not words"},
    }
    absent = compile_rule("r", SigmaRuleSpec(sigma=json.dumps(text), emit=EMIT))
    line = {"verb": "create", "annotations": {"audit.k8s.io/truncated": "true"}}
    for event, expected in ((line, False), ({"verb": "create"}, True), ({**line, "userAgent": "evil"}, False)):
        assert absent.matches(msgspec.json.decode(json.dumps(event), type=AuditRecord)) is expected


def test_an_expression_is_asked_of_each_text() -> None:
    """Its anchors mean the ends of a text."""
    assert hits({"|re": ["^evil$"]}, {"a": "x", "b": "evil"})
    assert not hits({"|re": ["^evil.x"]}, {"a": "evil", "b": "x"})


def test_a_word_does_not_hide_behind_what_no_rule_reads() -> None:
    """More values than fit into the largest request do not exhaust the search."""
    assert hits(["evil"], {"zeros": [0] * 700_000, "a": "evil"})
    assert hits(["evil*word"], {"decoys": ["x"] * 100_000, "a": "an evil word"})


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ([f"x*y*z{i}" for i in range(500)], {"a": "xy" * 750_000}),
        ([f"x*y*z{i}" for i in range(500)], ["xy" * 20] * 30_000 + [f"z{i}" for i in range(500)]),
        ([f"x?y{i}" for i in range(100)], ["xy" * 20] * 30_000),
        ({"|re": [f"x.*y{i}" for i in range(100)]}, ["xy" * 20] * 30_000),
        ({"|all": [f"{'xy' * (i % 9 + 1)}*x" for i in range(500)]}, [*(["q"] * 30_000), "xy" * 20]),
    ],
)
def test_many_keywords_on_a_large_body_are_bounded(words: Any, body: Any) -> None:
    """What is searched for one event has an end, whatever the rule and the body."""
    one, view = rule(words), view_of(body)
    one.holds(view)
    assert view.searched <= keywords.ROOM + keywords.MAX_TEXT * 2


def test_out_of_room_nothing_is_found_and_no_filter_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be searched to the end matches no keyword; a rule that excludes keywords still speaks."""
    monkeypatch.setattr(keywords, "ROOM", 1000)
    assert not hits(["evil"], {"decoys": ["x"] * 1000, "a": "evil"})
    text = {
        "title": "t",
        "logsource": {"product": "kubernetes", "service": "audit"},
        "detection": {"s": {"verb": "patch"}, "words": ["evil"], "condition": "s and not words"},
    }
    one = compile_rule("r", SigmaRuleSpec(sigma=json.dumps(text), emit=EMIT))
    assert one.holds(view_of({"decoys": ["x"] * 1000, "a": "evil"}))
