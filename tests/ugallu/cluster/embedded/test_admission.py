"""Pruning and the chain of checks."""

from typing import ClassVar

import pytest

from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Kind, Resource, Wire
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.embedded.admission import CHECKS, Admission, Review, Writer
from ugallu.cluster.embedded.document import Document, document_of
from ugallu.cluster.embedded.policies import EMBEDDED
from ugallu.cluster.port import ForbiddenError, InvalidError
from ugallu.testing.contracts.cluster import rule


class Node(Wire, frozen=True, kw_only=True):
    name: str = ""
    children: tuple["Node", ...] = ()
    by_name: dict[str, "Node"] = {}
    either: int | str | None = None
    free: object = None


class Tree(Resource, frozen=True, kw_only=True):
    kind_info: ClassVar[Kind] = Kind("Tree", "trees")
    spec: Node = Node()


def writer(kind: type[Resource]) -> Writer:
    return Writer(kind, EMBEDDED, lambda _key, _name: None)


def tree(spec: object) -> Document:
    return {"apiVersion": "security.ugallu.io/v1alpha1", "kind": "Tree", "metadata": {"name": "t"}, "spec": spec}


def test_pruning_reaches_every_depth_of_a_recursive_type() -> None:
    """Unknown fields go from structs, lists and maps; a free value keeps everything."""
    messy = {"name": "a", "x": 1, "free": {"any": {"thing": 1}}, "either": "text",
             "children": [{"x": 1, "children": [{"name": "c", "x": 2}]}], "byName": {"k": {"x": 1, "name": "d"}}}  # fmt: skip
    clean = {"name": "a", "free": {"any": {"thing": 1}}, "either": "text",
             "children": [{"children": [{"name": "c"}]}], "byName": {"k": {"name": "d"}}}  # fmt: skip
    before = tree(messy)
    assert Admission([Tree]).prune(Tree, before) == tree(clean)
    assert before == tree(messy)


def test_a_good_object_is_left_as_it_is() -> None:
    """What the types can say is not touched, but for defaults, which are filled in."""
    document = document_of(rule("a", description="d", tags=("t",)))
    document["spec"]["emit"]["class"] = "Detection"
    without = {**document, "spec": {**document["spec"], "emit": {**document["spec"]["emit"]}}}
    del without["spec"]["emit"]["class"]
    assert Admission([SigmaRule]).admit("create", writer(SigmaRule), without) == document
    assert Admission([SigmaRule]).admit("create", writer(SigmaRule), document) == document


def test_the_first_check_that_refuses_decides() -> None:
    """Another check joins the chain by standing in it, and sees both versions."""
    seen: list[Review] = []

    def immutable(review: Review) -> None:
        seen.append(review)
        if review.old is not None and review.object["spec"] != review.old["spec"]:
            raise ForbiddenError("spec is immutable", where=review.where)

    admission = Admission([SigmaRule], checks=(*CHECKS, immutable))
    old, new = document_of(rule("a")), document_of(rule("a", description="d"))
    admission.admit("create", writer(SigmaRule), old)
    with pytest.raises(ForbiddenError, match="sigmarules/a: spec is immutable"):
        admission.admit("update", writer(SigmaRule), new, old)
    assert [(review.verb, review.schema) for review in seen] == [("create", SigmaRule), ("update", SigmaRule)]
    with pytest.raises(InvalidError):
        admission.admit("update", writer(SigmaRule), {**new, "spec": 1}, old)
    assert len(seen) == 2


def test_a_required_field_must_be_there() -> None:
    """An event without its spec, or a spec without its subject, is named as such."""
    bare: Document = {"apiVersion": "security.ugallu.io/v1alpha1", "kind": "SecurityEvent", "metadata": {"name": "a"}}
    admission = Admission([SecurityEvent])
    with pytest.raises(InvalidError, match="spec"):
        admission.admit("create", writer(SecurityEvent), bare)
    with pytest.raises(InvalidError, match=r"class.*\$.spec"):
        admission.admit("create", writer(SecurityEvent), {**bare, "spec": {}})
