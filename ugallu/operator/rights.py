"""What one operator may do: what it grants itself, and what follows from what else it declares.

Roles, the test cluster that refuses what nobody declared, and `ugallu doctor` all ask here.
"""

from collections.abc import Iterable
from typing import Any, Final

from ugallu.api.core import Lease
from ugallu.api.meta import GROUP, Kind, Resource
from ugallu.emit.pressure import NAME as PRESSURE
from ugallu.operator.contract import Grant, Namespace, Operator, Placement
from ugallu.operator.singletons import CONFIG_NAME

CLUSTER_ID: Final = Grant("", ("namespaces",), ("get",), names=("kube-system",))
"""The uid of kube-system names the cluster, unless a setting does."""


def lease_of(operator: Operator[Any] | type[Operator[Any]]) -> str:
    """Return the name of the Lease that an operator of one leader holds."""
    return f"ugallu-{operator.name}-leader"


def rights(operator: Operator[Any] | type[Operator[Any]]) -> tuple[Grant, ...]:
    """Return every grant of an operator, its own and the implied, without repetition."""
    return tuple(dict.fromkeys((*_implied(operator), *operator.grants)))


def allows(
    grants: Iterable[Grant], verb: str, kind: Kind, *, name: str = "", namespace: str = "", part: str = ""
) -> bool:
    """Tell whether one of the grants covers a request; `part` is a subresource with its slash (`/status`)."""
    resource = kind.plural + part
    return any(
        grant.group == kind.group
        and resource in grant.resources
        and verb in grant.verbs
        and (not grant.names or name in grant.names)
        and (not grant.namespace or namespace == grant.namespace)
        for grant in grants
    )


def config_rights(kind: type[Resource], home: Namespace = Namespace.SYSTEM) -> tuple[Grant, Grant]:
    """Return what follows a config object and says on it what has become of it.

    Of a kind of the cluster that is the one of its name; in the namespace of its operator it is all of them, so that
    one under a wrong name can be told so.
    """
    info = kind.kind_info
    namespace, names = (home.value, ()) if info.namespaced else ("", (CONFIG_NAME,))
    return (
        Grant(info.group, (info.plural,), ("list", "watch"), names, namespace),
        Grant(info.group, (f"{info.plural}/status",), ("patch",), names, namespace),
    )


def _implied(operator: Operator[Any] | type[Operator[Any]]) -> Iterable[Grant]:
    yield CLUSTER_ID
    if operator.emits:
        # The outbox reads back what stands under a name that was taken.
        yield Grant(GROUP, ("securityevents",), ("create", "get"))
        # How hard the store is pressed: its outbox obeys.
        yield Grant("", ("configmaps",), ("list", "watch"), names=(PRESSURE,), namespace=Namespace.SYSTEM.value)
    if operator.config_kind is not None:
        yield from config_rights(operator.config_kind, operator.workload.namespace)
    if operator.placement is Placement.ONE_LEADER:
        lease = Lease.kind_info
        namespace = operator.workload.namespace.value
        # The Lease is shipped, empty: RBAC cannot limit `create` to a name, and nobody else's Lease is ours to make.
        yield Grant(lease.group, (lease.plural,), ("get", "patch"), names=(lease_of(operator),), namespace=namespace)
