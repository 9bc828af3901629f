"""Types of Kubernetes that stand inside of ours, with the bounds and list types of `k8s.io/api` 0.34."""

from typing import Annotated

from ugallu.api.meta import Atomic, Wire
from ugallu.api.scalars import ATOMIC, Int32, Name, Quantity, Texts, listed_by


class LocalObjectReference(Atomic, frozen=True, kw_only=True):
    """An object in the same namespace."""

    name: Name = ""
    """Name of the object."""


class SecretKeySelector(Atomic, frozen=True, kw_only=True):
    """One key of a Secret in the component's own namespace."""

    name: Name = ""
    """Name of the Secret."""
    key: str
    """Key inside the Secret."""
    optional: bool = False
    """Whether the Secret or its key may be missing."""


class LabelSelectorRequirement(Wire, frozen=True, kw_only=True):
    """One condition on a label."""

    key: str
    """Name of the label."""
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: Texts = ()
    """Values for In and NotIn."""


class LabelSelector(Atomic, frozen=True, kw_only=True):
    """Objects by their labels: every condition holds."""

    match_labels: dict[str, str] = {}
    """Labels and the values they must have."""
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], ATOMIC] = ()
    """Further conditions on labels."""


class Capabilities(Wire, frozen=True, kw_only=True):
    """Linux capabilities of a container."""

    add: Texts = ()
    """Capabilities added to the runtime's set."""
    drop: Texts = ()
    """Capabilities taken from the runtime's set."""


class ResourceClaim(Wire, frozen=True, kw_only=True):
    """A claim of the pod that a container uses."""

    name: str
    """Name of the claim in the pod."""
    request: str = ""
    """The request inside the claim; empty: all of it."""


class ResourceRequirements(Wire, frozen=True, kw_only=True):
    """What a container asks for, and what it may use at most."""

    limits: dict[str, Quantity] = {}
    """Most that may be used, by resource."""
    requests: dict[str, Quantity] = {}
    """What is set aside, by resource."""
    claims: Annotated[tuple[ResourceClaim, ...], listed_by("name")] = ()
    """Claims in use."""


class NodeSelectorRequirement(Wire, frozen=True, kw_only=True):
    """One condition on a node's label or field."""

    key: str
    """Name of the label or field."""
    operator: str
    """In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: Texts = ()
    """What the operator compares with."""


class NodeSelectorTerm(Atomic, frozen=True, kw_only=True):
    """Nodes for which every condition holds."""

    match_expressions: Annotated[tuple[NodeSelectorRequirement, ...], ATOMIC] = ()
    """Conditions on labels."""
    match_fields: Annotated[tuple[NodeSelectorRequirement, ...], ATOMIC] = ()
    """Conditions on fields."""


class NodeSelector(Atomic, frozen=True, kw_only=True):
    """Nodes that one of the terms selects."""

    node_selector_terms: Annotated[tuple[NodeSelectorTerm, ...], ATOMIC]
    """The terms; one is enough."""


class PreferredSchedulingTerm(Wire, frozen=True, kw_only=True):
    """Nodes that are liked, and how much."""

    preference: NodeSelectorTerm
    """The nodes."""
    weight: Int32
    """How much, 1 to 100."""


class NodeAffinity(Wire, frozen=True, kw_only=True):
    """Nodes that a pod must or should run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that it must run on."""
    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[PreferredSchedulingTerm, ...], ATOMIC] = ()
    """Nodes that it should run on."""


class PodAffinityTerm(Wire, frozen=True, kw_only=True):
    """Pods that count as near or far."""

    label_selector: LabelSelector | None = None
    """The pods."""
    match_label_keys: Texts = ()
    """Labels in which they agree with the pod."""
    mismatch_label_keys: Texts = ()
    """Labels in which they differ from the pod."""
    namespace_selector: LabelSelector | None = None
    """Namespaces of the pods, by label."""
    namespaces: Texts = ()
    """Namespaces of the pods, by name."""
    topology_key: str
    """The node label that says what near is."""


class WeightedPodAffinityTerm(Wire, frozen=True, kw_only=True):
    """Pods that count as near or far, and how much."""

    pod_affinity_term: PodAffinityTerm
    """The pods."""
    weight: Int32
    """How much, 1 to 100."""


class PodAffinity(Wire, frozen=True, kw_only=True):
    """Pods that a pod must or should run near to."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodAffinityTerm, ...], ATOMIC] = ()
    """Pods that it must be near to."""
    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[WeightedPodAffinityTerm, ...], ATOMIC] = ()
    """Pods that it should be near to."""


class PodAntiAffinity(Wire, frozen=True, kw_only=True):
    """Pods that a pod must or should run far from."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodAffinityTerm, ...], ATOMIC] = ()
    """Pods that it must be far from."""
    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[WeightedPodAffinityTerm, ...], ATOMIC] = ()
    """Pods that it should be far from."""
