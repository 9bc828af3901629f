"""Operators to roles, roles to Pods: the shape follows from what an operator declares."""

from typing import Any, ClassVar

import pytest

from ugallu.api.meta import Config
from ugallu.errors import PermanentError
from ugallu.manifests.pods import template
from ugallu.manifests.roles import Role, Shape, local, mebibytes, replicated, roles
from ugallu.manifests.workloads import workload
from ugallu.operator.contract import HostPath, Namespace, Operator, Placement, Port, Workload
from ugallu.operator.rights import rights
from ugallu.settings import Settings, load
from ugallu.supervisor.registry import installed


class Plain(Operator[Config]):
    name = "plain"
    config = Config


class Lead(Operator[Config]):
    name = "lead"
    config = Config
    placement = Placement.ONE_LEADER
    workload: ClassVar[Workload] = Workload(durable=True)


class Standby(Operator[Config]):
    name = "standby"
    config = Config
    placement = Placement.ONE_LEADER
    workload: ClassVar[Workload] = Workload(replicas=2)


class Keeper(Operator[Config]):
    name = "keeper"
    config = Config
    workload: ClassVar[Workload] = Workload(durable=True, replicas=2, ports=(Port("grpc", 9000, service=9000),))


class Agent(Operator[Config]):
    name = "agent"
    config = Config
    placement = Placement.EVERY_NODE
    workload: ClassVar[Workload] = Workload(
        namespace=Namespace.PRIVILEGED, durable=True, host_paths=(HostPath("/sys/fs/cgroup", "who is in a cgroup"),)
    )


def ours() -> list[type[Operator[Any]]]:
    return [line.load() for line in installed().values()]


def role(operator: type[Operator[Any]]) -> Role:
    (found,) = roles([operator])
    return found


def kinds(of: Role) -> list[str]:
    return [document["kind"] for document in workload(of)]


def main(of: Role) -> dict[str, Any]:
    (found,) = [d for d in workload(of) if d["kind"] == of.shape.value]
    return dict(found)


def test_the_shape_follows_from_state_and_placement() -> None:
    """One claim for one leader, one for each replica that acknowledges by itself, a directory on each node."""
    assert kinds(role(Plain)) == ["Deployment"]
    assert kinds(role(Lead)) == ["PersistentVolumeClaim", "Deployment"]
    assert main(role(Lead))["spec"]["strategy"] == {"type": "Recreate"}
    assert kinds(role(Standby)) == ["Deployment", "PodDisruptionBudget"]
    assert main(role(Standby))["spec"]["strategy"]["type"] == "RollingUpdate"
    assert kinds(role(Keeper)) == ["Service", "StatefulSet", "PodDisruptionBudget"]
    assert kinds(role(Agent)) == ["DaemonSet"]


def test_what_cannot_work_is_not_generated() -> None:
    """A standby without its leader's volume, a node's state where Pod Security refuses it."""

    class Two(Lead):
        workload: ClassVar[Workload] = Workload(durable=True, replicas=2)

    class Everywhere(Agent):
        workload: ClassVar[Workload] = Workload(durable=True)

    for broken in (Two, Everywhere):
        with pytest.raises(PermanentError):
            list(workload(role(broken)))


def test_nothing_that_may_never_change_carries_the_version() -> None:
    """An upgrade must be an apply: selectors and claim templates are immutable."""
    spec = main(role(Keeper))["spec"]
    version = "app.kubernetes.io/version"
    assert version in spec["template"]["metadata"]["labels"]
    assert version not in spec["selector"]["matchLabels"]
    assert version not in spec["volumeClaimTemplates"][0]["metadata"]["labels"]


@pytest.mark.parametrize("operator", [Plain, Lead, Standby, Keeper, Agent], ids=lambda o: o.name)
def test_a_pod_has_time_to_end_and_every_mount_has_its_volume(operator: type[Operator[Any]]) -> None:
    """The kubelet waits longer than our own grace; no mount is without a volume, no volume without a mount."""
    made = role(operator)
    spec = main(made)["spec"]
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > Settings().grace_seconds
    volumes = [volume["name"] for volume in pod["volumes"]]
    volumes += [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
    assert sorted(mount["name"] for mount in pod["containers"][0]["volumeMounts"]) == sorted(volumes)


def test_what_a_node_lends_is_lent_to_be_read() -> None:
    """Only the role's own state is written to a node."""
    pod = template(role(Agent))["spec"]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"state": "/var/lib/ugallu/agent", "host-sys-fs-cgroup": "/sys/fs/cgroup"}
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "host-sys-fs-cgroup"]
    assert mount["readOnly"]


@pytest.mark.parametrize("made", [*roles(ours()), local(ours())], ids=lambda role: role.name)
def test_the_environment_of_a_pod_is_one_that_settings_take(made: Role) -> None:
    """Every variable names a setting, and every value fits."""
    (container,) = template(made)["spec"]["containers"]
    environ = {entry["name"]: entry.get("value", "from-the-pod") for entry in container["env"]}
    settings = load({}, environ)
    assert settings.instance == settings.kubernetes.namespace == "from-the-pod"
    assert settings.state == "/var/lib/ugallu/state"
    assert (settings.listen.health, settings.listen.metrics) == (":8081", ":9090")
    defaults = load({}, {})
    for name in environ:
        path = [field for field in _paths(settings) if f"UGALLU_{'_'.join(field).upper()}" == name]
        assert path, f"{name} is no setting"
        assert _value(settings, path[0]) != _value(defaults, path[0]), f"{name} only repeats the default"


def _paths(settings: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in settings.__struct_fields__:
        value = getattr(settings, field)
        here = (*prefix, field)
        found += _paths(value, here) if hasattr(value, "__struct_fields__") else [here]
    return found


def _value(settings: Any, path: tuple[str, ...]) -> Any:
    for field in path:
        settings = getattr(settings, field)
    return settings


def test_audit_detection_has_two_roads() -> None:
    """By webhook without a right on any node; by file as root, but without a capability, where the log is."""
    found = {each.name: each for each in roles(ours())}
    assert {"audit-webhook", "audit-file", "attestor"} <= {*found}
    webhook, file = found["audit-webhook"], found["audit-file"]
    assert webhook.shape is Shape.STATEFUL_SET
    assert (file.shape, file.namespace) == (Shape.DAEMON_SET, "ugallu-system-privileged")
    pod = template(file)["spec"]
    assert pod["securityContext"]["runAsUser"] == 0
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not pod["containers"][0]["securityContext"]["privileged"]
    assert webhook.account == file.account == "ugallu-audit-detection", "events come from the account of their source"
    assert webhook.grants == file.grants


def test_local_may_do_what_its_operators_may() -> None:
    """One account with the union of their rights, and one Pod with all that they ask for."""
    together = local(ours())
    assert set(together.grants) == {grant for operator in together.operators for grant in rights(operator)}
    assert {operator.name for operator in together.operators} == {each.name for each in ours() if each.shipped}
    assert template(together)["spec"]["containers"][0]["args"][2].split(",") == [o.name for o in together.operators]
    assert together.settings["evidence"] == "local"
    assert kinds(together) == ["Service", "Service", "PersistentVolumeClaim", "Deployment"]


def test_a_node_agent_does_not_fit_into_a_restricted_pod() -> None:
    """`local` leaves out what needs a node or its directories."""
    assert [operator.name for operator in local([Plain, Agent, Lead]).operators] == ["plain", "lead"]


def test_a_second_replica_seals_nowhere_by_itself() -> None:
    """Doubled, the attestor gives up key and log of its own: two of them would be two stories."""
    (attestor,) = [each for each in roles(ours()) if each.name == "attestor"]
    double = replicated(attestor)
    assert attestor.settings == {"evidence": "local"}
    assert double.settings == {}
    assert double.workload.replicas == 2
    assert kinds(double) == ["Deployment", "PodDisruptionBudget"]
    assert replicated(role(Agent)) == role(Agent)


@pytest.mark.parametrize(("text", "amount"), [("256Mi", 256), ("2Gi", 2048)])
def test_memory(text: str, amount: int) -> None:
    """MiB and GiB."""
    assert mebibytes(text) == amount
    with pytest.raises(PermanentError, match="no amount of memory"):
        mebibytes(text.replace("i", ""))
