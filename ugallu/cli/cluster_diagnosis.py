"""What `ugallu doctor` examines on a Kubernetes cluster: what is installed, who may what, who leads, what arrives.

It looks, with whatever rights it has; what it may not see is said, and never taken for good.
"""

import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from ugallu.api.core import Lease
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.meta import Kind, Resource, Wire
from ugallu.cli import ledger_diagnosis as ledger
from ugallu.cli.diagnosis import Finding
from ugallu.cli.ledger_diagnosis import Sample
from ugallu.cli.likeness import differences
from ugallu.clock import Clock
from ugallu.cluster.pods import Target
from ugallu.cluster.port import Cluster, ForbiddenError, NotFoundError, list_all
from ugallu.errors import UgalluError
from ugallu.operator.contract import Grant, Operator, Placement
from ugallu.operator.rights import lease_of, rights

if TYPE_CHECKING:
    from ugallu.cluster.kubernetes.client import KubernetesCluster

R = TypeVar("R", bound=Resource)

OLDEST: Final = (1, 30)
"""The first Kubernetes that serves ValidatingAdmissionPolicy as stable."""
SKEW_WARN: Final = 5.0
SKEW_FAIL: Final = 60.0
"""Seconds between our clock and the server's: tokens and certificates begin to fail long before a day."""
SILENT: Final = 300.0
"""Seconds without an audit event: leases alone are renewed every few seconds."""
INSTALL: Final = "kubectl apply --server-side --force-conflicts -k manifests/overlays/standard"
PART_OF: Final = "app.kubernetes.io/part-of=ugallu"
METRICS_PORT: Final = 9090


class Definition(Resource, frozen=True, kw_only=True):
    """A CustomResourceDefinition as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "CustomResourceDefinition", "customresourcedefinitions", group="apiextensions.k8s.io", version="v1"
    )
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class AdmissionPolicy(Resource, frozen=True, kw_only=True):
    """A ValidatingAdmissionPolicy as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "ValidatingAdmissionPolicy", "validatingadmissionpolicies", group="admissionregistration.k8s.io", version="v1"
    )
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class AdmissionBinding(Resource, frozen=True, kw_only=True):
    """A ValidatingAdmissionPolicyBinding as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        group="admissionregistration.k8s.io",
        version="v1",
    )
    spec: dict[str, Any] = {}


class ContainerArgs(Wire, frozen=True, kw_only=True):
    """What a container was started with."""

    args: tuple[str, ...] = ()


class PodArgs(Wire, frozen=True, kw_only=True):
    """Whom a Pod runs as, and what it was started with."""

    service_account_name: str = ""
    containers: tuple[ContainerArgs, ...] = ()


class PodCondition(Wire, frozen=True, kw_only=True):
    """One aspect of a Pod: unlike ours it may come without a reason."""

    type: str
    status: str


class PodState(Wire, frozen=True, kw_only=True):
    """How a Pod fares."""

    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()


class OurPod(Resource, frozen=True, kw_only=True):
    """A Pod of ours."""

    kind_info: ClassVar[Kind] = Kind("Pod", "pods", group="", version="v1", namespaced=True)
    spec: PodArgs = PodArgs()
    status: PodState = PodState()

    @property
    def operators(self) -> frozenset[str]:
        """The operators that its command line enables."""
        words = [word for container in self.spec.containers for word in container.args]
        named = [word.partition("=")[2] for word in words if word.startswith("--enable=")]
        named += [following for word, following in pairwise(words) if word == "--enable"]
        return frozenset(name for names in named for name in names.split(",") if name)

    @property
    def ready(self) -> bool:
        """Whether Kubernetes holds it for ready."""
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)


class Review(Resource, frozen=True, kw_only=True):
    """A SubjectAccessReview: the question whether a user may do something, and its answer."""

    kind_info: ClassVar[Kind] = Kind(
        "SubjectAccessReview", "subjectaccessreviews", group="authorization.k8s.io", version="v1"
    )
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class Installed(NamedTuple):
    """An operator of ours at work in the cluster, and whom it runs as."""

    operator: type[Operator[Any]]
    user: str


async def examine(
    cluster: "KubernetesCluster", operators: Sequence[type[Operator[Any]]], clock: Clock
) -> list[Finding]:
    """Examine the cluster for these operators. Raises nothing: what fails is a finding."""
    try:
        version = await cluster.version()
    except UgalluError as error:
        return [Finding("server", "fail", error.what, error.fix or "is this the right --kubeconfig?")]
    found = [_version(version.git_version)]
    if version.server_time is not None:
        found.append(_skew((clock.now() - version.server_time).total_seconds()))
    found += [one async for one in _kinds(cluster)]
    found += [one async for one in _policies(cluster)]
    pods = await _pods(cluster)
    found += list(_ready(pods))
    found += [one async for one in _rights(cluster, _installed(operators, pods))]
    found += [one async for one in _leases(cluster, operators, pods, clock)]
    found += [one async for one in _stream(cluster, pods, clock)]
    found += [one async for one in replicas(cluster, pods)]
    return found


# Server


def _version(told: str) -> Finding:
    major, _, rest = told.removeprefix("v").partition(".")
    minor = rest.partition(".")[0]
    if major.isdigit() and minor.isdigit() and (int(major), int(minor)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding("server", "fail", f"Kubernetes {told}", f"upgrade to {oldest} or later: policies need it")
    return Finding("server", "ok", f"Kubernetes {told}")


def _skew(ahead: float) -> Finding:
    told = f"our clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if abs(ahead) > SKEW_FAIL:
        return Finding("clock", "fail", told, "timedatectl set-ntp true, on whichever of the two is wrong")
    if abs(ahead) > SKEW_WARN:
        return Finding("clock", "warn", told, "timedatectl set-ntp true, on whichever of the two is wrong")
    return Finding("clock", "ok", "agrees with the server's")


# What is installed


async def _kinds(cluster: "KubernetesCluster") -> AsyncIterator[Finding]:
    from ugallu.api.crd import crd
    from ugallu.api.kinds import KINDS

    ours = {document["metadata"]["name"]: document["spec"] for document in map(crd, KINDS)}
    try:
        theirs, _ = await list_all(cluster, Definition)
    except UgalluError as error:
        yield _unseen("kinds", error, "customresourcedefinitions")
        return
    there = {item.metadata.name: item for item in theirs if item.metadata.name in ours}
    yield from_comparison("kinds", ours, {name: item.spec for name, item in there.items()})
    refused = [
        f"{name}: {condition.get('message', condition['type'])}"
        for name, item in there.items()
        for condition in item.status.get("conditions", ())
        if (condition["type"], condition["status"]) in (("Established", "False"), ("NonStructuralSchema", "True"))
    ]
    if refused:
        yield Finding("kinds served", "fail", "; ".join(refused), INSTALL)


async def _policies(cluster: "KubernetesCluster") -> AsyncIterator[Finding]:
    from ugallu.api.policies import policies

    documents = [policy.documents() for policy in policies()]
    try:
        theirs, _ = await list_all(cluster, AdmissionPolicy)
        bound, _ = await list_all(cluster, AdmissionBinding)
    except UgalluError as error:
        yield _unseen("policies", error, "validatingadmissionpolicies")
        return
    # Which accounts a policy lets through is the cluster's own choice: its variables are not compared.
    ours = {policy["metadata"]["name"]: _rules(policy["spec"]) for policy, _ in documents}
    yield from_comparison("policies", ours, {item.metadata.name: _rules(item.spec) for item in theirs})
    ours = {binding["metadata"]["name"]: binding["spec"] for _, binding in documents}
    yield from_comparison("policy bindings", ours, {item.metadata.name: item.spec for item in bound})
    names = {policy["metadata"]["name"] for policy, _ in documents}
    for item in theirs:
        warnings = item.status.get("typeChecking", {}).get("expressionWarnings", ())
        if item.metadata.name in names and warnings:
            told = f"{item.metadata.name}: {warnings[0].get('warning', '')}".splitlines()[0]
            yield Finding("policies checked", "warn", told, "upgrade ugallu: this server reads an expression otherwise")


def _rules(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "variables"}


def from_comparison(check: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Finding:
    """Return what a comparison by name says: all there and equal, or what is missing or otherwise."""
    missing = sorted(name for name in ours if name not in theirs)
    if missing:
        return Finding(check, "fail", f"{len(missing)} of {len(ours)} are missing: {_few(missing)}", INSTALL)
    other = [f"{name} ({path})" for name in sorted(ours) for path in _first(differences(ours[name], theirs[name]))]
    if other:
        return Finding(check, "fail", f"{len(other)} of {len(ours)} are not ours: {_few(other)}", INSTALL)
    return Finding(check, "ok", f"{len(ours)}, as this release has them")


def _first(found: Iterable[str]) -> Iterator[str]:
    for one in found:
        yield one
        return


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _unseen(check: str, error: UgalluError, resource: str) -> Finding:
    if isinstance(error, ForbiddenError):
        return Finding(check, "warn", f"cannot be seen: {error.what}", f"let this user list {resource}")
    return Finding(check, "fail", error.what, error.fix)


# Who runs, and who may what


async def _pods(cluster: "KubernetesCluster") -> list[OurPod] | UgalluError:
    try:
        pods, _ = await list_all(cluster, OurPod, labels=PART_OF)
    except UgalluError as error:
        return error
    return pods


def _ready(pods: list[OurPod] | UgalluError) -> Iterator[Finding]:
    if isinstance(pods, UgalluError):
        yield _unseen("pods", pods, "pods")
        return
    waiting = sorted(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods if not pod.ready)
    if not pods:
        yield Finding("pods", "warn", "none of ours runs here", INSTALL)
    elif waiting:
        namespace, _, name = waiting[0].partition("/")
        yield Finding(
            "pods",
            "fail",
            f"{len(waiting)} of {len(pods)} are not ready: {_few(waiting)}",
            f"kubectl -n {namespace} describe pod {name}; kubectl -n {namespace} logs {name}",
        )
    else:
        yield Finding("pods", "ok", f"{len(pods)} ready")


def _installed(operators: Sequence[type[Operator[Any]]], pods: list[OurPod] | UgalluError) -> list[Installed]:
    """Return each operator that a Pod runs, and as whom."""
    if isinstance(pods, UgalluError):
        return []
    found = {
        (operator, f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}")
        for pod in pods
        for operator in operators
        if operator.name in pod.operators
    }
    return [Installed(*one) for one in sorted(found, key=lambda one: (one[0].name, one[1]))]


async def _rights(cluster: "KubernetesCluster", running: Sequence[Installed]) -> AsyncIterator[Finding]:
    for operator, user in running:
        check = f"rights of {operator.name}"
        try:
            refused = [told async for told in _refused(cluster, user, rights(operator))]
        except UgalluError as error:
            yield _unseen(check, error, "subjectaccessreviews (create)")
            continue
        if refused:
            yield Finding(check, "fail", f"{user} may not {_few(refused)}", INSTALL)
        else:
            yield Finding(check, "ok", f"{user} may all that it declares")


async def _refused(cluster: "KubernetesCluster", user: str, grants: Iterable[Grant]) -> AsyncIterator[str]:
    for grant in grants:
        for url, verb in itertools.product(grant.urls, grant.verbs):
            spec = {"user": user, "nonResourceAttributes": {"path": url, "verb": verb}}
            if not (await cluster.create(Review(spec=spec))).status.get("allowed"):
                yield f"{verb} {url}"
        for resource in grant.resources:
            plural, _, part = resource.partition("/")
            for verb in grant.verbs:
                asked = {
                    "group": grant.group,
                    "resource": plural,
                    "subresource": part,
                    "verb": verb,
                    "name": grant.names[0] if grant.names else "",
                    "namespace": grant.namespace,
                }
                answer = await cluster.create(Review(spec={"user": user, "resourceAttributes": asked}))
                if not answer.status.get("allowed"):
                    yield f"{verb} {resource}{f' in {grant.namespace}' if grant.namespace else ''}"


async def _leases(
    cluster: "KubernetesCluster",
    operators: Sequence[type[Operator[Any]]],
    pods: list[OurPod] | UgalluError,
    clock: Clock,
) -> AsyncIterator[Finding]:
    for operator in operators:
        if operator.placement is not Placement.ONE_LEADER or isinstance(pods, UgalluError):
            continue
        for namespace in sorted({pod.metadata.namespace for pod in pods if operator.name in pod.operators}):
            name = lease_of(operator)
            try:
                lease = await cluster.get(Lease, name, namespace)
            except NotFoundError:
                yield Finding(f"lease {name}", "fail", f"is not there in {namespace}", INSTALL)
            except UgalluError as error:
                yield _unseen(f"lease {name}", error, "leases (get)")
            else:
                yield _lease(name, lease, clock.now())


def _lease(name: str, lease: Lease, now: dt.datetime) -> Finding:
    spec = lease.spec
    if not spec.holder_identity or spec.renew_time is None:
        return Finding(f"lease {name}", "fail", "nobody leads", f"kubectl get pods -A -l {PART_OF}")
    # The holder's clock wrote the time, so only a gross difference means something.
    age = (now - spec.renew_time).total_seconds()
    told = f"{spec.holder_identity} leads, renewed {max(age, 0.0):.0f} s ago"
    if age > spec.lease_duration_seconds + SKEW_WARN:
        pod = spec.holder_identity.partition("_")[0]
        return Finding(f"lease {name}", "fail", told, f"kubectl -n {lease.metadata.namespace} logs {pod}")
    return Finding(f"lease {name}", "ok", told)


async def replicas(cluster: Cluster, pods: list[OurPod] | UgalluError) -> AsyncIterator[Finding]:
    """Yield whether replicas behind one audit webhook can agree, in their config object, that it is silent."""
    if isinstance(pods, UgalluError):
        return
    behind = sum(pod.metadata.labels.get("app.kubernetes.io/component") == "audit-webhook" for pod in pods)
    if behind < 2:
        return
    try:
        await cluster.get(AuditDetectionConfig, "default")
    except NotFoundError:
        told = (
            f"{behind} replicas and no AuditDetectionConfig default: an idle one reports that the audit log is silent"
        )
        yield Finding("audit replicas", "warn", told, "kubectl apply --server-side -k manifests/overlays/audit-config")
    except UgalluError as error:
        yield _unseen("audit replicas", error, "auditdetectionconfigs (get)")
    else:
        yield Finding("audit replicas", "ok", f"{behind} that agree in AuditDetectionConfig default")


# What arrives


async def _stream(
    cluster: "KubernetesCluster", pods: list[OurPod] | UgalluError, clock: Clock
) -> AsyncIterator[Finding]:
    if isinstance(pods, UgalluError):
        return
    for pod in pods:
        if "audit-detection" not in pod.operators or not pod.ready:
            continue
        where = f"{pod.metadata.namespace}/{pod.metadata.name}"
        target = Target(pod.metadata.namespace, pod.metadata.name)
        try:
            told = await cluster.fetch_from_pod(target, METRICS_PORT, "/metrics")
        except UgalluError as error:
            yield _unseen(f"audit stream of {where}", error, "pods/portforward (get)")
        else:
            for one in stream(where, told.decode(errors="replace"), clock.now()):
                yield one
    try:
        told = await cluster.fetch("/metrics")
    except UgalluError as error:
        yield _unseen("API server's audit", error, "/metrics (get, nonResourceURLs)")
    else:
        found = ledger.of_server(_read(told.decode(errors="replace")))
        if found is not None:
            yield found


def stream(where: str, exposition: str, now: dt.datetime) -> Iterator[Finding]:
    """Yield what a process's metrics say of its audit stream: whether it lives, at which levels, and its books."""
    samples = _read(exposition)
    if not samples:
        yield Finding(f"audit stream of {where}", "fail", "its metrics cannot be read", "is this a Pod of ours?")
        return
    yield _lives(f"audit stream of {where}", samples, now)
    yield from ledger.of_process(f"books of {where}", samples)


def _read(exposition: str) -> list[Sample]:
    from ugallu.metrics import read

    try:
        return list(read(exposition))
    except ValueError:
        return []


def _lives(check: str, samples: Sequence[Sample], now: dt.datetime) -> Finding:
    newest = max(
        (value for name, _, value in samples if name == "ugallu_audit_last_event_timestamp_seconds"), default=0.0
    )
    levels = {
        labels.get("level", ""): int(value) for name, labels, value in samples if name == "ugallu_audit_events_total"
    }
    if not newest or not any(levels.values()):
        return Finding(
            check,
            "fail",
            "not one audit event has come",
            "set --audit-policy-file and --audit-webhook-config-file (or --audit-log-path) of the API server: "
            "docs/install.md",
        )
    told = ", ".join(f"{count:,} at {level}" for level, count in sorted(levels.items()) if count)
    age = now.timestamp() - newest
    if age > SILENT:
        return Finding(check, "fail", f"silent for {age:,.0f} s; before: {told}", "is the API server's audit sink up?")
    if not levels.get("Request", 0) + levels.get("RequestResponse", 0):
        return Finding(
            check, "warn", f"{told}; no bodies", "audit writes at RequestResponse: examples/audit-policy.yaml"
        )
    return Finding(check, "ok", f"newest {max(age, 0.0):,.0f} s ago; {told}")
