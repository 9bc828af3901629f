"""Metadata, conditions, and strict decoding: what a person wrote is taken whole or refused by field."""

import datetime as dt
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec
from ugallu.api.meta import (
    Condition,
    Config,
    Kind,
    Metadata,
    ObjectReference,
    Resource,
    Wire,
    always,
    decode_strict,
    encode,
    utc_seconds,
    wire_name,
    with_condition,
)
from ugallu.errors import PermanentError


class Inner(Wire, frozen=True, kw_only=True):
    name: str = ""
    limits: dict[str, int] = {}


class Example(Config, frozen=True, kw_only=True):
    enabled: bool = msgspec.field(default_factory=always(True))
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


class Thing(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Kind("Thing", "things")
    spec: Example = Example()


@pytest.mark.parametrize(
    ("python", "wire"),
    [
        ("correlation_id", "correlationID"),
        ("uid", "uid"),
        ("pod_uid", "podUID"),
        ("host_ipc", "hostIPC"),
        ("class_", "class"),
        ("url_path", "urlPath"),
        ("source_ips", "sourceIPs"),
        ("last_transition_time", "lastTransitionTime"),
    ],
)
def test_names_on_the_wire_are_camel_case_with_initialisms(python: str, wire: str) -> None:
    """As Kubernetes spells them."""
    assert wire_name(python) == wire


def test_an_object_says_what_it_is_and_leaves_out_what_is_empty() -> None:
    """`apiVersion` and `kind` come first; absent and zero mean the same; a default of true is written."""
    thing = Thing(metadata=Metadata(name="a"), spec=Example(inner=Inner(name="x")))
    assert encode(thing) == (
        b'{"apiVersion":"security.ugallu.io/v1alpha1","kind":"Thing","metadata":{"name":"a"},'
        b'"spec":{"enabled":true,"inner":{"name":"x"}}}'
    )


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"enabeld": False}, "enabeld"),
        ({"inner": {"nmae": "x"}}, "inner.nmae"),
        ({"many": [{}, {"nmae": "x"}]}, r"many\[1\].nmae"),
        ({"enabled": "yes"}, "enabled"),
        ({"many": {}}, "many"),
        (b'{"inner": {"limits": {"a": "b"}}}', "inner.limits"),
        (b"{", "truncated"),
        ([], r"Example|object|array"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(data: Any, named: str) -> None:
    """A misspelt or mistyped field of a config is an error with its place, never ignored."""
    with pytest.raises(PermanentError, match=named) as caught:
        decode_strict(Example, data, where="Thing/default")
    assert caught.value.where == "Thing/default"


def test_a_whole_object_may_carry_its_coordinates() -> None:
    """`apiVersion` and `kind` are no unknown fields at the root, and only there."""
    assert decode_strict(Thing, {"apiVersion": "v1", "kind": "Thing", "spec": {"enabled": False}}).spec.enabled is False
    with pytest.raises(PermanentError, match=r"spec\.kind"):
        decode_strict(Thing, {"kind": "Thing", "spec": {"kind": "x"}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "limits", "enabled", "inner", "many", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(json_values)
def test_strict_decoding_answers_or_refuses_and_nothing_else(data: Any) -> None:
    """Whatever a person writes, the outcome is a value that encodes to the same meaning, or a PermanentError."""
    try:
        value = decode_strict(Example, data)
    except PermanentError:
        return
    assert decode_strict(Example, msgspec.json.decode(encode(value))) == value


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    """`lastTransitionTime` says when the status changed, not when somebody last looked."""
    early, late = (dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2))
    other = Condition(type="Other", status="True", reason="Yes")
    before = (Condition(type="Ready", status="False", reason="Starting", last_transition_time=early), other)
    same = with_condition(before, Condition(type="Ready", status="False", reason="Broken", last_transition_time=late))
    assert [(c.type, c.reason, c.last_transition_time) for c in same if c.type == "Ready"] == [
        ("Ready", "Broken", early)
    ]
    assert other in same
    flipped = with_condition(same, Condition(type="Ready", status="True", reason="Up", last_transition_time=late))
    assert [c.last_transition_time for c in flipped if c.type == "Ready"] == [late]
    assert len(flipped) == 2


def test_a_reference_points_at_this_very_object() -> None:
    """Kind, name and uid; the version is left out because it moves."""
    stored = AttestationBundle(
        metadata=Metadata(name="b", uid="u", resource_version="7"),
        spec=AttestationBundleSpec(attested_for=ObjectReference(name="e")),
    )
    assert stored.ref == ObjectReference(
        api_version="security.ugallu.io/v1alpha1", kind="AttestationBundle", name="b", uid="u"
    )


def test_times_are_cut_to_the_second_in_utc() -> None:
    """The API's precision."""
    moment = dt.datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert utc_seconds(moment) == dt.datetime(2026, 1, 1, 10, 0, 0, tzinfo=dt.UTC)
