"""The whole tree: what is in it, whether a copy of it is current, and how it gets to the disk.

crds/ policies/   the API group: kinds and admission policies
rbac/             ClusterRoles for people
base/             the above, namespaces, priority, network policies
components/       one folder a role, and what is optional
overlays/         what one applies: local, standard, hardened
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ugallu import __version__
from ugallu.api.crd import crd
from ugallu.api.kinds import KINDS
from ugallu.api.meta import Resource
from ugallu.api.policies import PolicyValues, policies
from ugallu.manifests import base, event_bus, file_only, monitoring, network, people, pods, rbac, webhook_tls
from ugallu.manifests import roles as cast
from ugallu.manifests.document import HEADER, Document, body
from ugallu.manifests.kustomize import Folder, changes
from ugallu.manifests.names import APP, IMAGE, SYSTEM, labels, user_of
from ugallu.manifests.roles import Role
from ugallu.manifests.workloads import workload
from ugallu.operator.contract import Operator

OVERLAYS: Final = ("standard", "hardened", cast.LOCAL)
_IMAGE: Final = {"name": IMAGE, "newName": IMAGE, "newTag": __version__}


class Difference(NamedTuple):
    """A file that is not as the code would write it: `missing`, `differs` or `stale`."""

    path: str
    how: str


def tree(operators: Sequence[type[Operator[Any]]]) -> dict[str, str]:
    """Return every file by its path in the tree. Raises `PermanentError` for rights that no role may have."""
    return {path: text for folder in folders(operators) for path, text in sorted(folder.texts().items())}


def folders(operators: Sequence[type[Operator[Any]]]) -> Iterator[Folder]:
    """Yield every folder of the tree."""
    yield Folder("crds", {f"{document['spec']['names']['plural']}.yaml": [document] for document in _crds(operators)})
    yield Folder("policies", {f"{name}.yaml": pair for name, pair in _policies(PolicyValues()).items()})
    kinds = _kinds(operators)
    yield Folder("rbac", {f"{role['metadata']['name']}.yaml": [role] for role in people.cluster_roles(kinds)})
    yield Folder(
        "base",
        {
            "namespaces.yaml": [*base.namespaces()],
            "priorityclass.yaml": [base.priority()],
            "networkpolicies.yaml": [*network.of_namespaces(strict=False)],
        },
        resources=("../crds", "../policies", "../rbac"),
    )
    single = cast.roles(operators)
    double = tuple(twice for role in single if (twice := cast.replicated(role)) is not role)
    together = cast.local(operators)
    yield from (_component(role) for role in (*single, *double, together))
    yield Folder("components/image", images=[_IMAGE], component=True)
    yield Folder("components/ephemeral", patches=[*_forgetful(together)], component=True)
    received = [document for role in (*single, *double) if role.name == cast.WEBHOOK for document in _objects(role)]
    unheard = cast.local(operator for operator in operators if operator.name != cast.AUDIT)
    silenced = file_only.patches(received, _objects(together), _objects(unheard))
    yield Folder(f"components/{file_only.COMPONENT}", patches=silenced, component=True)
    yield Folder(f"components/{network.EGRESS}", {"networkpolicy.yaml": [network.of_evidence()]}, component=True)
    yield Folder("components/cert-manager", {"certificate.yaml": [*webhook_tls.documents()]}, component=True)
    yield Folder("components/monitoring", monitoring.documents(), component=True)
    yield Folder(f"components/{event_bus.CONFIG}", {"config.yaml": [event_bus.config()]}, component=True)
    yield Folder(f"components/{event_bus.COMPONENT}", patches=[event_bus.opened()], component=True)
    configured = f"../../components/{event_bus.CONFIG}"
    yield Folder(f"overlays/{event_bus.CONFIG}", components=(configured,))
    yield Folder(f"overlays/{event_bus.COMPONENT}", components=(configured, f"../../components/{event_bus.COMPONENT}"))
    yield from _packs(operators)
    # The audit log has two roads; the webhook needs no rights on a node.
    roads = ("audit-file",)
    # What the attestor keeps in a volume of its own nobody else reads back, so ttl comes with a store for both.
    alone = (*roads, "ttl")
    yield _overlay("standard", [role for role in single if role.shipped and role.name not in alone])
    yield _overlay("hardened", [role for role in double if role.shipped and role.name not in roads], strict=True)
    yield _overlay(cast.LOCAL, [together])


def _packs(operators: Iterable[type[Operator[Any]]]) -> Iterator[Folder]:
    """Yield what operators bring along: a component, and an overlay of it alone, as its kinds must be there first."""
    for operator in operators:
        for name, resources in operator.packs().items():
            files = {f"{each.metadata.name}.yaml": [_document(each)] for each in resources}
            yield Folder(f"components/{name}", files, component=True)
            yield Folder(f"overlays/{name}", components=(f"../../components/{name}",))


def _document(resource: Resource) -> Document:
    kind = type(resource).kind_info
    data: dict[str, Any] = msgspec.to_builtins(resource, str_keys=True)
    data.pop("status", None)
    return {"apiVersion": kind.api_version, "kind": kind.name, **data}


def compare(files: dict[str, str], directory: Path) -> Iterator[Difference]:
    """Yield how a directory differs from the files. What does not say that we wrote it is not ours to judge."""
    for path, text in sorted(files.items()):
        there = directory / path
        if not there.is_file():
            yield Difference(path, "missing")
        elif there.read_bytes() != text.encode():
            yield Difference(path, "differs")
    for there in sorted(directory.rglob("*.yaml")):
        path = there.relative_to(directory).as_posix()
        if path not in files and there.is_file() and there.read_bytes().startswith(HEADER.encode()):
            yield Difference(path, "stale")


def write(files: dict[str, str], directory: Path) -> list[Difference]:
    """Make a directory equal to the files, and return what had to change."""
    found = list(compare(files, directory))
    for path, how in found:
        there = directory / path
        if how == "stale":
            there.unlink()
            for parent in there.relative_to(directory).parents[:-1]:
                if any((directory / parent).iterdir()):
                    break
                (directory / parent).rmdir()
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(files[path].encode())
    return found


def _kinds(operators: Iterable[type[Operator[Any]]]) -> tuple[type[Resource], ...]:
    """Ours, and the config kinds of operators that others bring."""
    others = (operator.config_kind for operator in operators if operator.config_kind is not None)
    return tuple(dict.fromkeys((*KINDS, *others)))


def _crds(operators: Iterable[type[Operator[Any]]]) -> Iterator[Document]:
    for kind in _kinds(operators):
        yield _labelled(crd(kind), "api")


def _policies(values: PolicyValues) -> dict[str, list[Document]]:
    return {
        policy.name.removeprefix(f"{APP}."): [_labelled(document, "policies") for document in policy.documents()]
        for policy in policies(values)
    }


def _labelled(document: Document, component: str) -> Document:
    data = document["metadata"]
    return {**document, "metadata": {**data, "labels": {**labels(component), **data.get("labels", {})}}}


def _component(role: Role) -> Folder:
    return Folder(f"components/{role.folder or role.name}", _files(role), component=True)


def _objects(role: Role) -> list[Document]:
    return [document for documents in _files(role).values() for document in documents]


def _files(role: Role) -> dict[str, Sequence[Document]]:
    rights = rbac.roles(
        role.grants,
        name=_rights_of(role),
        component=role.name,
        subject=role.account,
        home=role.namespace,
    )
    leases = (rbac.lease(name, role.namespace, role.name) for name in role.leases)
    shipped = (rbac.config_map(name, role.namespace, role.name) for name in role.workload.config_maps)
    opened = [*network.of_role(role)]
    return {
        "rbac.yaml": [rbac.account(role.account, role.namespace, role.name), *rights, *leases, *shipped],
        "workload.yaml": [*workload(role)],
        **({"networkpolicy.yaml": opened} if opened else {}),
    }


def _rights_of(role: Role) -> str:
    """Two roles of one operator may be installed side by side: cluster-wide names must differ."""
    return f"{role.account}-file" if role.control_plane else role.account


def _overlay(name: str, chosen: Sequence[Role], *, strict: bool = False) -> Folder:
    changed = changes(_guards(PolicyValues()), _guards(values_of(name)))
    if strict:
        changed += changes(network.of_namespaces(strict=False), network.of_namespaces(strict=True))
    return Folder(
        f"overlays/{name}",
        resources=("../../base",),
        components=(*(f"../../components/{role.folder or role.name}" for role in chosen), "../../components/image"),
        patches=changed,
    )


def _guards(values: PolicyValues) -> list[Document]:
    return [document for pair in _policies(values).values() for document in pair]


def values_of(overlay: str) -> PolicyValues:
    """Return what the policies of an overlay must know: `local` does everything as one account."""
    if overlay == cast.LOCAL:
        everyone = user_of(f"{APP}-{cast.LOCAL}", SYSTEM)
        return PolicyValues(attestor=everyone, emitters=(everyone,))
    return PolicyValues(delete_protection=overlay == "hardened")


def _forgetful(role: Role) -> Iterator[dict[str, Any]]:
    """Patches for a cluster that has no volumes to give: the state, evidence included, then ends with the Pod."""
    volume = {"name": "state", "persistentVolumeClaim": None, "emptyDir": {"sizeLimit": pods.STATE_SIZE}}
    place = {"name": role.account, "namespace": role.namespace}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": place,
        "spec": {"template": {"spec": {"volumes": [volume]}}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": pods.claim(role), "namespace": role.namespace},
        "$patch": "delete",
    }
    yield from ({"patch": body([document])} for document in (deployment, claim))
