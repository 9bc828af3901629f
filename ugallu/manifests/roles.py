"""Which sets of Pods there are: what each runs, as whom, and where its audit log comes from.

An operator is a role of its own. audit-detection is two: the audit log reaches it through the API server's webhook, or
as a file on the control plane's nodes, and the source is the house's, not the operator's. `local` is every operator
that can share one restricted Pod.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from ugallu.errors import PermanentError
from ugallu.manifests.names import APP, BUS_CLIENT, BUS_SERVICE, BUS_TOKEN, NATS, SYSTEM, WEBHOOK_TLS, WEBHOOK_TOKEN
from ugallu.operator.contract import Grant, HostPath, Namespace, Operator, Placement, Port, Workload
from ugallu.operator.rights import lease_of, rights

T = TypeVar("T")

AUDIT: Final = "audit-detection"
INGEST: Final = "ingest"
WEBHOOK: Final = "audit-webhook"
"""The role that API servers send the audit log to."""
AUDIT_DIRECTORY: Final = "/var/log/kubernetes/audit"
SECRETS: Final = "/etc/ugallu/secrets"
LOCAL: Final = "local"

_WEBHOOK: Final = {
    "audit.webhook.listen": ":8443",
    "audit.webhook.tls_cert": f"{SECRETS}/{WEBHOOK_TLS}/tls.crt",
    "audit.webhook.tls_key": f"{SECRETS}/{WEBHOOK_TLS}/tls.key",
    "audit.webhook.token_file": f"{SECRETS}/{WEBHOOK_TOKEN}/token",
}
_BUS: Final = {
    "audit.bus.addresses": f"{BUS_SERVICE}.{SYSTEM}.svc:8444",
    "audit.bus.ca": f"{SECRETS}/{BUS_CLIENT}/ca.crt",
    "audit.bus.token_file": f"{SECRETS}/{BUS_TOKEN}/token",
}
_NATS: Final = {
    "bus.url": "tls://nats.nats.svc:4222",
    "bus.ca": f"{SECRETS}/{NATS}/ca.crt",
    "bus.token_file": f"{SECRETS}/{NATS}/token",
}
_SEAL_HERE: Final = {"evidence": "local"}


class Shape(enum.Enum):
    """The kind of workload."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"


@dataclass(frozen=True, slots=True)
class Role:
    """One set of Pods."""

    name: str
    """Also the component label, and its folder's name unless `folder` says otherwise."""
    account: str
    """Name of the ServiceAccount and of the workload. Events of an operator come from the account of its name."""
    operators: tuple[type[Operator[Any]], ...]
    workload: Workload
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings by their dotted path."""
    daemon: bool = False
    control_plane: bool = False
    """Only where the API servers run."""
    root: bool = False
    folder: str = ""

    @property
    def namespace(self) -> str:
        """Where its Pods are."""
        return self.workload.namespace.value

    @property
    def shape(self) -> Shape:
        """What its state asks for: a claim for each replica that acknowledges by itself, one where one leads.

        Raises `PermanentError` for state that no kind of workload can keep.
        """
        durable, alone = self.workload.durable, Placement.ONE_LEADER in {each.placement for each in self.operators}
        if self.daemon:
            if durable and self.workload.namespace is not Namespace.PRIVILEGED:
                raise PermanentError(
                    "state on every node is a directory of the node, which Pod Security refuses in ugallu-system",
                    where=f"role {self.name}",
                    fix="declare Namespace.PRIVILEGED, or state that need not last",
                )
            return Shape.DAEMON_SET
        if durable and alone and self.workload.replicas > 1:
            raise PermanentError(
                "a standby cannot mount what its leader holds", where=f"role {self.name}", fix="one replica"
            )
        return Shape.STATEFUL_SET if durable and not alone else Shape.DEPLOYMENT

    @property
    def shipped(self) -> bool:
        """Whether overlays run it."""
        return all(operator.shipped for operator in self.operators)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Everything that its operators may do."""
        return tuple(dict.fromkeys(grant for operator in self.operators for grant in rights(operator)))

    @property
    def leases(self) -> tuple[str, ...]:
        """The Leases that its operators contend for."""
        return tuple(lease_of(each) for each in self.operators if each.placement is Placement.ONE_LEADER)


def roles(operators: Iterable[type[Operator[Any]]]) -> tuple[Role, ...]:
    """Return the roles of these operators, each operator a role of its own."""
    found: list[Role] = []
    for operator in operators:
        if operator.name == AUDIT:
            found += (_audit_file(operator), _audit_webhook(operator))
        elif operator.name == INGEST:
            found.append(_ingest(operator))
        else:
            found.append(_own(operator))
    return tuple(sorted(found, key=lambda role: role.name))


def replicated(role: Role) -> Role:
    """Return the role with a second replica, so that a node may fail; what cannot be doubled is left as it is.

    A leader that keeps evidence on its own volume gives that up: two replicas share no volume, so key, log and store
    must then be outside (and until one is configured there, the attestor says that it has none).
    """
    if role.daemon or role.name == INGEST:
        return role
    alone = role.shape is Shape.DEPLOYMENT and role.workload.durable
    settings = {path: value for path, value in role.settings.items() if path not in _SEAL_HERE}
    workload = replace(role.workload, replicas=max(2, role.workload.replicas))
    return replace(
        role,
        folder=f"{role.name}-ha",
        workload=replace(workload, durable=False) if alone else workload,
        settings=settings if alone else role.settings,
    )


def local(operators: Iterable[type[Operator[Any]]]) -> Role:
    """Return one role of all operators that can share a restricted Pod, with evidence on its own volume."""
    chosen = tuple(
        operator
        for operator in operators
        if operator.shipped
        and operator.placement is not Placement.EVERY_NODE
        and operator.workload.namespace is Namespace.SYSTEM
    )
    parts = [operator.workload for operator in chosen]
    webhook = any(operator.name == AUDIT for operator in chosen)
    return Role(
        name=LOCAL,
        account=f"{APP}-{LOCAL}",
        operators=chosen,
        workload=Workload(
            ports=_union(part.ports for part in parts),
            secrets=_union(part.secrets for part in parts),
            tokens=_union(part.tokens for part in parts),
            config_maps=_union(part.config_maps for part in parts),
            arguments=_union(part.arguments for part in parts),
            memory=f"{sum(mebibytes(part.memory) for part in parts)}Mi",
            durable=True,
        ),
        settings={**_SEAL_HERE, **(_WEBHOOK if webhook else {})},
    )


def service_of(role: Role, port: Port) -> str:
    """Return the name of the Service before a port: the operator's, whatever else shares its Pod."""
    owner = next(operator for operator in role.operators if port in operator.workload.ports)
    return f"{APP}-{owner.name}-{port.name}"


def mebibytes(quantity: str) -> int:
    """Return an amount of memory in MiB; raises `PermanentError` for one that is not in Mi or Gi."""
    unit = {"Mi": 1, "Gi": 1024}.get(quantity[-2:])
    if unit is None or not quantity[:-2].isdigit():
        raise PermanentError(f"no amount of memory: {quantity!r}", where="Workload.memory", fix="write 256Mi or 1Gi")
    return int(quantity[:-2]) * unit


def _own(operator: type[Operator[Any]]) -> Role:
    # The one operator whose state is evidence seals into it until stores outside can be configured.
    seals = operator.name == "attestor" and operator.workload.durable
    return Role(
        name=operator.name,
        account=f"{APP}-{operator.name}",
        operators=(operator,),
        workload=operator.workload,
        settings=_SEAL_HERE if seals else {},
        daemon=operator.placement is Placement.EVERY_NODE,
    )


def _audit_webhook(operator: type[Operator[Any]]) -> Role:
    return replace(_own(operator), name=WEBHOOK, settings=_WEBHOOK)


def _audit_file(operator: type[Operator[Any]]) -> Role:
    """The log is root's, mode 0600: the reader is root without a single capability, so only as the file's owner."""
    workload = replace(
        operator.workload,
        namespace=Namespace.PRIVILEGED,
        # Nobody posts to it; its bus is what other Pods read, wherever the log comes from.
        ports=tuple(port for port in operator.workload.ports if port.headless),
        secrets=tuple(name for name in operator.workload.secrets if name not in (WEBHOOK_TLS, WEBHOOK_TOKEN)),
        host_paths=(HostPath(AUDIT_DIRECTORY, "the API server's audit log, which only root may read"),),
    )
    return replace(
        _own(operator),
        name="audit-file",
        workload=workload,
        settings={"audit.files": f"{AUDIT_DIRECTORY}/audit.log"},
        daemon=True,
        control_plane=True,
        root=True,
    )


def _ingest(operator: type[Operator[Any]]) -> Role:
    """It reads the event bus, and writes to NATS what it reads: two would write everything twice."""
    workload = replace(operator.workload, ports=(), secrets=(BUS_CLIENT, BUS_TOKEN, NATS), reaches=(4222,))
    return replace(_own(operator), workload=workload, settings={**_BUS, **_NATS})


def _union(parts: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(each for part in parts for each in part))
