"""Server-side apply as a pure function."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cluster.embedded import fieldset
from ugallu.cluster.embedded.document import Document
from ugallu.cluster.embedded.merge import merged

SPEC = st.recursive(
    st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3),
    max_leaves=6,
)
SPECS = st.dictionaries(st.sampled_from("pqr"), SPEC, max_size=3)
MANAGERS = st.sampled_from(["a", "b", "c"])


def document(spec: Any, **metadata: Any) -> Document:
    return {"apiVersion": "v1", "kind": "T", "metadata": {"name": "n", **metadata}, "spec": spec}


@given(st.lists(st.tuples(MANAGERS, SPECS), min_size=1, max_size=6))
@settings(max_examples=200)
def test_after_an_apply_the_object_holds_what_was_applied(steps: list[tuple[str, Any]]) -> None:
    """Whatever went before: every applied leaf has its value, and applying it again changes nothing."""
    live, owned = document({}, uid="u"), None
    for manager, spec in steps:
        before = copy.deepcopy((live, owned))
        after, owners = fieldset.apply(live, document(spec), owned, manager)
        assert (live, owned) == before
        live, owned = after, owners
        for path in fieldset.leaves(document(spec)):
            value: Any = live
            wanted: Any = document(spec)
            for key in path:
                value, wanted = value[key], wanted[key]
            # An empty object says only that there is one.
            assert value == wanted or (wanted == {} and isinstance(value, dict))
        assert live["metadata"]["uid"] == "u"
        assert fieldset.apply(live, document(spec), owned, manager) == (live, owned)
        assert fieldset.load(fieldset.dump(owned)) == owned


@given(st.lists(SPECS, min_size=1, max_size=5))
@settings(max_examples=100)
def test_a_lone_manager_gets_exactly_what_it_applies(specs: list[Any]) -> None:
    """With nobody else around, the leaves of the object are those of the last apply."""
    live, owned = fieldset.apply(None, document(specs[0]), None, "a")
    for spec in specs[1:]:
        live, owned = fieldset.apply(live, document(spec), owned, "a")
    assert {path for path in fieldset.leaves(live) if len(path) > 1 and path[0] == "spec"} == {
        path for path in fieldset.leaves(document(specs[-1])) if len(path) > 1
    }


@given(SPECS, SPECS, SPECS)
@settings(max_examples=100)
def test_a_patched_field_is_not_the_appliers_any_more(first: Any, patch: Any, last: Any) -> None:
    """What a patch set survives an apply that leaves it out."""
    live, owned = fieldset.apply(None, document(first), None, "a")
    patched = document(merged(live["spec"], patch))
    after_patch = fieldset.written(live, patched, owned)
    result, _ = fieldset.apply(patched, document(last), after_patch, "a")
    changed = {
        path
        for path in fieldset.leaves(patched)
        if path in fieldset.leaves(document(patch)) and path not in fieldset.leaves(live)
    }
    asked = fieldset.leaves(document(last))
    for path in changed:
        # An apply may replace what stands above or below; where it says nothing, the patch stands.
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in asked):
            assert path in fieldset.leaves(result)


def test_finalizers_and_owners_are_owned_one_by_one() -> None:
    """Two managers each add a finalizer and an owner; one leaves, its own go."""

    def owner(uid: str) -> Document:
        return {"apiVersion": "v1", "kind": "T", "name": uid, "uid": uid}

    live, owned = fieldset.apply(None, document({}, finalizers=["x/a"], ownerReferences=[owner("1")]), None, "a")
    live, owned = fieldset.apply(live, document({}, finalizers=["x/b"], ownerReferences=[owner("2")]), owned, "b")
    assert live["metadata"]["finalizers"] == ["x/a", "x/b"]
    assert [each["uid"] for each in live["metadata"]["ownerReferences"]] == ["1", "2"]
    live, owned = fieldset.apply(live, document({}), owned, "a")
    assert live["metadata"]["finalizers"] == ["x/b"]
    assert live["metadata"]["ownerReferences"] == [owner("2")]


def test_finalizers_keep_the_order_they_were_applied_in() -> None:
    """Order is what was asked for, not what a hash makes of it."""
    names = [f"x/{letter}" for letter in "zebra"]
    live, _ = fieldset.apply(document({}), document({}, finalizers=names), None, "a")
    assert live["metadata"]["finalizers"] == names


def test_status_and_identity_are_nobodys() -> None:
    """An apply leaves status, uid and the like as they are, whoever applied what."""
    live = {**document({"a": 1}, uid="u", resourceVersion="7"), "status": {"s": 1}}
    after, owned = fieldset.apply(live, {**document({"b": 2}), "status": {"s": 2}}, None, "m")
    assert after == {**document({"a": 1, "b": 2}, uid="u", resourceVersion="7"), "status": {"s": 1}}
    assert owned == {"": {("spec", "a")}, "m": {("spec", "b")}}
