"""What a live cluster says of Pods, roles and bindings, for rules that ask and where the audit stream does not know.

A watch of a kind starts with the first rule that asks for it. A replay has no cluster to ask, and knows what its log
says: so may a live stream know more than its recording. Nothing here is asked for what stood before a write, because a
watch may be ahead of the audit log.
"""

import types
import typing
from collections.abc import Iterable
from typing import Any, ClassVar

import anyio
import msgspec

from ugallu.sdk import Cache, Kind, Resource, View, Wire, encode
from ugallu_audit_detection.sigma.path import Step
from ugallu_audit_detection.sigma.questions import (
    BINDINGS,
    RBAC,
    Answer,
    Asked,
    Of,
    Question,
    RoleRef,
    grantee,
    grantees,
    ways,
)


class Capabilities(Wire, frozen=True, kw_only=True):
    """Of a container."""

    add: tuple[str, ...] | None = None
    drop: tuple[str, ...] | None = None


class SecurityContext(Wire, frozen=True, kw_only=True):
    """Of a Pod or a container."""

    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    proc_mount: str | None = None
    capabilities: Capabilities | None = None


class Container(Wire, frozen=True, kw_only=True):
    """What a container may do."""

    name: str = ""
    image: str = ""
    security_context: SecurityContext | None = None


class HostPath(Wire, frozen=True, kw_only=True):
    """A path of the node."""

    path: str = ""


class Volume(Wire, frozen=True, kw_only=True):
    """A volume, and the path of the node that it is."""

    name: str = ""
    host_path: HostPath | None = None


class PodSpec(Wire, frozen=True, kw_only=True):
    """What rules may ask of a Pod in a live cluster; what is not here is unknown."""

    host_network: bool | None = None
    host_pid: bool | None = None
    host_ipc: bool | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    security_context: SecurityContext | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    ephemeral_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None


class RunningPod(Resource, frozen=True, kw_only=True):
    """`v1` Pod."""

    kind_info: ClassVar[Kind] = Kind("Pod", "pods", group="", version="v1", namespaced=True)
    spec: PodSpec = PodSpec()


class PolicyRule(Wire, frozen=True, kw_only=True):
    """One rule of a role."""

    verbs: tuple[str, ...] | None = None
    api_groups: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    resource_names: tuple[str, ...] | None = None
    non_resource_urls: tuple[str, ...] | None = msgspec.field(default=None, name="nonResourceURLs")


class Role(Resource, frozen=True, kw_only=True):
    """`rbac.authorization.k8s.io/v1` Role."""

    kind_info: ClassVar[Kind] = Kind("Role", "roles", group=RBAC, version="v1", namespaced=True)
    rules: tuple[PolicyRule, ...] | None = None


class ClusterRole(Resource, frozen=True, kw_only=True):
    """`rbac.authorization.k8s.io/v1` ClusterRole."""

    kind_info: ClassVar[Kind] = Kind("ClusterRole", "clusterroles", group=RBAC, version="v1")
    rules: tuple[PolicyRule, ...] | None = None


class RoleReference(Wire, frozen=True, kw_only=True):
    """Which role a binding gives."""

    kind: str = ""
    name: str = ""


class Grantee(Wire, frozen=True, kw_only=True):
    """To whom."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class RoleBinding(Resource, frozen=True, kw_only=True):
    """`rbac.authorization.k8s.io/v1` RoleBinding."""

    kind_info: ClassVar[Kind] = Kind("RoleBinding", "rolebindings", group=RBAC, version="v1", namespaced=True)
    role_ref: RoleReference = RoleReference()
    subjects: tuple[Grantee, ...] | None = None


class ClusterRoleBinding(Resource, frozen=True, kw_only=True):
    """`rbac.authorization.k8s.io/v1` ClusterRoleBinding."""

    kind_info: ClassVar[Kind] = Kind("ClusterRoleBinding", "clusterrolebindings", group=RBAC, version="v1")
    role_ref: RoleReference = RoleReference()
    subjects: tuple[Grantee, ...] | None = None


class Inventory:
    """The service that keeps the watches that rules ask for, and what they know."""

    name = "cluster inventory"

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._pods: View[RunningPod] | None = None
        self._roles: dict[str, View[Role] | View[ClusterRole]] = {}
        self._bindings: dict[str, View[RoleBinding] | View[ClusterRoleBinding]] = {}
        self._synced: set[Of] = set()
        self._wanted: set[Of] = set()
        self._more = anyio.Event()

    def want(self, asked: Iterable[Asked]) -> None:
        """Watch what these conditions are about."""
        new = {each.of for each in asked} - self._wanted - {Of.OBJECT}
        if not new:
            return
        self._wanted |= new
        if Of.POD in new:
            self._pods = self._cache.view(RunningPod)
        if Of.ROLE in new:
            self._roles = {"Role": self._cache.view(Role), "ClusterRole": self._cache.view(ClusterRole)}
        if Of.BINDING in new:
            spaced, wide = self._cache.view(RoleBinding), self._cache.view(ClusterRoleBinding)
            spaced.index("grantee", _grantees)
            wide.index("grantee", _grantees)
            self._bindings = dict(zip(BINDINGS, (spaced, wide), strict=True))
        self._more.set()

    async def run(self) -> None:
        """Note which watches have everything, until cancelled. One that may not be read never has."""
        async with anyio.create_task_group() as waiting:
            begun: set[Of] = set()
            while True:
                self._more = anyio.Event()
                for of in self._wanted - begun:
                    begun.add(of)
                    waiting.start_soon(self._sync, of)
                await self._more.wait()

    async def _sync(self, of: Of) -> None:
        pods = [self._pods] if self._pods is not None else []
        views: dict[Of, Iterable[View[Any]]] = {
            Of.POD: pods,
            Of.ROLE: self._roles.values(),
            Of.BINDING: self._bindings.values(),
        }
        for view in views[of]:
            await view.synced()
        self._synced.add(of)

    def pod(self, namespace: str, name: str, question: Question) -> Answer | None:
        """Return the answer for a Pod that runs; None too for what a watch does not read of Pods."""
        pod = self._pods.get(name, namespace) if self._pods is not None else None
        if pod is None or not all(_reads(RunningPod, way) for way in ways(question.path, "", "pods")):
            return None
        return question.of("", "pods", _body(pod))

    def role(self, role: RoleRef, question: Question) -> bool | None:
        """Whether the role grants what is asked; one that does not exist grants nothing."""
        view = self._roles.get(role.kind)
        found = view.get(role.name, role.namespace) if view is not None else None
        if found is None:
            return False if Of.ROLE in self._synced else None
        return bool(question.of(RBAC, "roles", _body(found)))

    def bound(self, plural: str, namespace: str, name: str) -> RoleRef | None:
        """Return the role that a binding gives."""
        view = self._bindings.get(plural)
        found = view.get(name, namespace) if view is not None else None
        return _role_of(found) if found is not None else None

    def account(self, namespace: str, name: str, question: Question, *, cluster_wide: bool) -> bool | None:
        """Whether a ServiceAccount holds what is asked: known either way once everything was read."""
        for plural, view in self._bindings.items():
            if cluster_wide and plural != "clusterrolebindings":
                continue
            for subject in grantees(namespace, name):
                if any(self.role(_role_of(binding), question) for binding in view.by("grantee", subject)):
                    return True
        return False if {Of.ROLE, Of.BINDING} <= self._synced else None


def _body(resource: Resource) -> Any:  # noqa: ANN401 - any JSON
    return msgspec.json.decode(encode(resource))


def _grantees(binding: RoleBinding | ClusterRoleBinding) -> Iterable[str]:
    return [grantee(one.kind, one.name, one.namespace or binding.metadata.namespace) for one in binding.subjects or ()]


def _role_of(binding: RoleBinding | ClusterRoleBinding) -> RoleRef:
    of_namespace = binding.role_ref.kind == "Role"
    return RoleRef(binding.role_ref.kind, binding.role_ref.name, binding.metadata.namespace if of_namespace else "")


def _reads(kind: Any, steps: tuple[Step, ...]) -> bool:  # noqa: ANN401 - a type, as annotations have them
    """Whether a Struct holds all that stands at the steps, so that what it lacks there is not there."""
    options = [option for option in typing.get_args(kind) if option is not type(None)] if _is_union(kind) else [kind]
    (one,) = options
    if isinstance(one, type) and issubclass(one, msgspec.Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(one)}
        return bool(steps) and isinstance(steps[0], str) and steps[0] in fields and _reads(fields[steps[0]], steps[1:])
    origin = typing.get_origin(one)
    if origin is tuple:
        return bool(steps) and not isinstance(steps[0], str) and _reads(typing.get_args(one)[0], steps[1:])
    if origin is dict:
        return len(steps) == 1
    return not steps


def _is_union(kind: Any) -> bool:  # noqa: ANN401 - a type, as annotations have them
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
