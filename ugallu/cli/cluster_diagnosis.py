"""What `ugallu doctor` examines on a Kubernetes cluster: what is installed, who may what, who leads, what arrives.

It looks, with whatever rights it has; what it may not see is said, and never taken for good.
"""

import datetime as dt
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from ugallu.api.core import Lease
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.meta import Kind, Resource, Wire
from ugallu.cli import api_diagnosis
from ugallu.cli import ledger_diagnosis as ledger
from ugallu.cli.diagnosis import Finding, few, said, unseen
from ugallu.cli.ledger_diagnosis import Sample
from ugallu.clock import Clock
from ugallu.cluster.pods import Target
from ugallu.cluster.port import Cluster, NotFoundError, list_all
from ugallu.errors import UgalluError
from ugallu.operator.contract import Grant, Operator, Placement
from ugallu.operator.rights import lease_of, rights

if TYPE_CHECKING:
    from ugallu.cluster.kubernetes.client import KubernetesCluster

ServerTime = Callable[[], dt.datetime | None]
"""What the server's clock says now; None where it does not say."""

OLDEST: Final = (1, 30)
"""The first Kubernetes that serves ValidatingAdmissionPolicy as stable."""
SELECTABLE: Final = (1, 31)
"""The first one that serves selectable fields unasked; an older one leaves them out of a definition."""
NEWER: Final = (1, 1000)
SKEW_WARN: Final = 5.0
SKEW_FAIL: Final = 60.0
"""Seconds between our clock and the server's: tokens and certificates begin to fail long before a day."""
SILENT: Final = 300.0
"""Seconds without an audit event: leases alone are renewed every few seconds."""
PART_OF: Final = "app.kubernetes.io/part-of=ugallu"
WORKLOADS: Final = f"kubectl get deployments,statefulsets,daemonsets -A -l {PART_OF}"
METRICS_PORT: Final = 9090
ENDED: Final = frozenset({"Succeeded", "Failed"})
NO_TIME: Final = "the server tells no time"
DATES: Final = "does a proxy before the API server take its Date header away?"


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
    def alive(self) -> bool:
        """Whether it is to run: what has ended or was evicted stays until somebody takes it away."""
        return self.status.phase not in ENDED and self.metadata.deletion_timestamp is None

    @property
    def component(self) -> str:
        """The role that it is one of."""
        return self.metadata.labels.get("app.kubernetes.io/component", "")

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
    component: str


async def examine(
    cluster: "KubernetesCluster", operators: Sequence[type[Operator[Any]]], clock: Clock
) -> list[Finding]:
    """Examine the cluster for these operators. Raises nothing: what fails is a finding."""
    try:
        version = await cluster.version()
    except UgalluError as error:
        return [Finding("server", "fail", said(error), error.fix or "is this the right --kubeconfig?")]
    ahead = None if version.server_time is None else clock.now() - version.server_time

    def now() -> dt.datetime | None:
        """What the server's clock says: ours may be wrong, and what we judge was not dated by it."""
        return None if ahead is None else clock.now() - ahead

    release = _release(version.git_version)
    found = [_version(version.git_version, release), _skew(ahead)]
    found += [one async for one in api_diagnosis.examine(cluster, selectable=release >= SELECTABLE)]
    try:
        pods, _ = await list_all(cluster, OurPod, labels=PART_OF)
    except UgalluError as error:
        return [*found, unseen("pods", error, "list pods")]
    found.append(of_pods(pods))
    alive = [pod for pod in pods if pod.alive]
    found += [one async for one in _rights(cluster, _installed(operators, alive))]
    found += [one async for one in _leases(cluster, operators, alive, now)]
    found += [one async for one in _stream(cluster, alive, now)]
    found += [one async for one in replicas(cluster, alive)]
    return found


# Server


def _release(told: str) -> tuple[int, int]:
    """Return major and minor; a version that cannot be read is taken for a new one."""
    major, _, rest = told.removeprefix("v").partition(".")
    minor = rest.partition(".")[0].rstrip("+")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else NEWER


def _version(told: str, release: tuple[int, int]) -> Finding:
    if release < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding("server", "fail", f"Kubernetes {told}", f"upgrade to {oldest} or later: policies need it")
    return Finding("server", "ok", f"Kubernetes {told}")


def _skew(by: dt.timedelta | None) -> Finding:
    if by is None:
        return Finding("clock", "warn", f"{NO_TIME}: whether ours is right cannot be judged", DATES)
    ahead = by.total_seconds()
    told = f"our clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if abs(ahead) > SKEW_FAIL:
        return Finding("clock", "fail", told, "timedatectl set-ntp true, on whichever of the two is wrong")
    if abs(ahead) > SKEW_WARN:
        return Finding("clock", "warn", told, "timedatectl set-ntp true, on whichever of the two is wrong")
    return Finding("clock", "ok", "agrees with the server's")


# Who runs, and who may what


def of_pods(pods: Sequence[OurPod]) -> Finding:
    """Return how our Pods fare. One that has ended does nobody harm, and its like runs in its place."""
    alive = [pod for pod in pods if pod.alive]
    waiting = sorted(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in alive if not pod.ready)
    ended = sorted(pod.metadata.name for pod in pods if pod.status.phase in ENDED)
    rest = f"; {len(ended)} ended: {few(ended)}" if ended else ""
    if waiting:
        namespace, _, name = waiting[0].partition("/")
        return Finding(
            "pods",
            "fail",
            f"{len(waiting)} of {len(alive)} are not ready: {few(waiting)}{rest}",
            f"kubectl -n {namespace} describe pod {name}; kubectl -n {namespace} logs {name}",
        )
    if not alive:
        return Finding("pods", "warn", f"none of ours runs here{rest}", f"{WORKLOADS}  # none: docs/install.md")
    return Finding("pods", "ok", f"{len(alive)} ready{rest}")


def _installed(operators: Sequence[type[Operator[Any]]], pods: Sequence[OurPod]) -> list[Installed]:
    """Return each operator that a Pod runs, and as whom."""
    found = {
        Installed(
            operator,
            f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}",
            pod.component,
        )
        for pod in pods
        for operator in operators
        if operator.name in pod.operators
    }
    return sorted(found, key=lambda one: (one.operator.name, one.user, one.component))


def _given_by(component: str) -> str:
    """Return the line that gives a role its account, rights and Leases again, and changes nothing else."""
    return f"kubectl apply --server-side --force-conflicts -f manifests/components/{component or 'ROLE'}/rbac.yaml"


async def _rights(cluster: "KubernetesCluster", running: Sequence[Installed]) -> AsyncIterator[Finding]:
    for operator, user, component in running:
        check = f"rights of {operator.name}"
        try:
            refused = [told async for told in _refused(cluster, user, rights(operator))]
        except UgalluError as error:
            yield unseen(check, error, "create subjectaccessreviews")
            continue
        if refused:
            yield Finding(check, "fail", f"{user} may not {few(refused)}", _given_by(component))
        else:
            yield Finding(check, "ok", f"{user} may all that it declares")


async def _refused(cluster: "KubernetesCluster", user: str, grants: Iterable[Grant]) -> AsyncIterator[str]:
    for grant in grants:
        for url, verb in itertools.product(grant.urls, grant.verbs):
            spec = {"user": user, "nonResourceAttributes": {"path": url, "verb": verb}}
            if not (await cluster.create(Review(spec=spec))).status.get("allowed"):
                yield f"{verb} {url}"
        for resource, verb, name in itertools.product(grant.resources, grant.verbs, grant.names or ("",)):
            plural, _, part = resource.partition("/")
            asked = {
                "group": grant.group,
                "resource": plural,
                "subresource": part,
                "verb": verb,
                "name": name,
                "namespace": grant.namespace,
            }
            answer = await cluster.create(Review(spec={"user": user, "resourceAttributes": asked}))
            if not answer.status.get("allowed"):
                place = f" in {grant.namespace}" if grant.namespace else ""
                yield f"{verb} {' '.join(filter(None, (resource, name)))}{place}"


async def _leases(
    cluster: "KubernetesCluster", operators: Sequence[type[Operator[Any]]], pods: Sequence[OurPod], now: ServerTime
) -> AsyncIterator[Finding]:
    for operator in operators:
        if operator.placement is not Placement.ONE_LEADER:
            continue
        there = {pod.metadata.namespace: pod.component for pod in pods if operator.name in pod.operators}
        for namespace, component in sorted(there.items()):
            name = lease_of(operator)
            try:
                lease = await cluster.get(Lease, name, namespace)
            except NotFoundError:
                yield Finding(f"lease {name}", "fail", f"is not there in {namespace}", _given_by(component))
            except UgalluError as error:
                yield unseen(f"lease {name}", error, "get leases")
            else:
                yield of_lease(name, lease, now())


def of_lease(name: str, lease: Lease, now: dt.datetime | None) -> Finding:
    """Return whether somebody leads, by the server's clock; without it that cannot be told."""
    check, spec = f"lease {name}", lease.spec
    if not spec.holder_identity or spec.renew_time is None:
        return Finding(check, "fail", "nobody leads", f"kubectl get pods -A -l {PART_OF}")
    if now is None:
        return Finding(check, "warn", f"{spec.holder_identity} led last; {NO_TIME}, so whether it does is open", DATES)
    # The holder's clock wrote the time, so only a gross difference means something.
    age = (now - spec.renew_time).total_seconds()
    if age < -SKEW_WARN:
        told = (
            f"{spec.holder_identity} leads, by a clock {-age:.0f} s ahead of the server's: it would seem to for so long"
        )
        return Finding(check, "warn", told, "timedatectl set-ntp true, on its node")
    told = f"{spec.holder_identity} leads, renewed {max(age, 0.0):.0f} s ago"
    if age > spec.lease_duration_seconds + SKEW_WARN:
        pod = spec.holder_identity.partition("_")[0]
        return Finding(check, "fail", told, f"kubectl -n {lease.metadata.namespace} logs {pod}")
    return Finding(check, "ok", told)


async def replicas(cluster: Cluster, pods: Sequence[OurPod]) -> AsyncIterator[Finding]:
    """Yield whether replicas behind one audit webhook can agree, in their config object, that it is silent."""
    behind = sum(pod.component == "audit-webhook" for pod in pods)
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
        yield unseen("audit replicas", error, "get auditdetectionconfigs")
    else:
        yield Finding("audit replicas", "ok", f"{behind} that agree in AuditDetectionConfig default")


# What arrives


async def _stream(cluster: "KubernetesCluster", pods: Sequence[OurPod], now: ServerTime) -> AsyncIterator[Finding]:
    for pod in pods:
        if "audit-detection" not in pod.operators or not pod.ready:
            continue
        where = f"{pod.metadata.namespace}/{pod.metadata.name}"
        target = Target(pod.metadata.namespace, pod.metadata.name)
        try:
            told = await cluster.fetch_from_pod(target, METRICS_PORT, "/metrics")
        except UgalluError as error:
            yield unseen(f"audit stream of {where}", error, "get pods/portforward")
        else:
            for one in stream(where, told.decode(errors="replace"), now()):
                yield one
    try:
        told = await cluster.fetch("/metrics")
    except UgalluError as error:
        yield unseen("API server's audit", error, "get /metrics (nonResourceURLs)")
    else:
        found = ledger.of_server(_read(told.decode(errors="replace")))
        if found is not None:
            yield found


def stream(where: str, exposition: str, now: dt.datetime | None) -> Iterator[Finding]:
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


def _lives(check: str, samples: Sequence[Sample], now: dt.datetime | None) -> Finding:
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
    if now is None:
        return Finding(check, "warn", f"{told}; {NO_TIME}, so whether more comes is open", DATES)
    # API servers date audit events, so their clock alone tells an age.
    age = now.timestamp() - newest
    if age > SILENT:
        return Finding(check, "fail", f"silent for {age:,.0f} s; before: {told}", "is the API server's audit sink up?")
    if not levels.get("Request", 0) + levels.get("RequestResponse", 0):
        return Finding(
            check, "warn", f"{told}; no bodies", "audit writes at RequestResponse: examples/audit-policy.yaml"
        )
    return Finding(check, "ok", f"newest {max(age, 0.0):,.0f} s ago; {told}")
