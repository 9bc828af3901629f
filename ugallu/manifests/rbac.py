"""Rights to RBAC: what an operator declares, no more; and nothing that no operator of ours may ask for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ugallu.errors import PermanentError
from ugallu.manifests.document import Document
from ugallu.manifests.names import metadata
from ugallu.operator.contract import Grant

API: Final = "rbac.authorization.k8s.io"
SECRET_READS: Final = frozenset({"get", "list", "watch", "patch", "deletecollection"})
"""Verbs whose answer shows what a Secret holds: that of a patch is the whole object."""

Rule = dict[str, Any]


def rules(grants: Iterable[Grant]) -> list[Rule]:
    """Return the rules that give these grants and nothing else, merged and in order.

    Raises `PermanentError` for a grant that `check` refuses. Namespaces are the caller's business.
    """
    verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = defaultdict(set)
    grants = tuple(grants)
    for grant in grants:
        check(grant)
        for resource in grant.resources:
            verbs[grant.group, resource, tuple(sorted(grant.names))] |= set(grant.verbs)
    urls = sorted({(url, verb) for grant in grants for url in grant.urls for verb in grant.verbs})
    merged: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, resource, names), given in verbs.items():
        # What is granted for every name need not be granted again for some.
        left = given - verbs.get((group, resource, ()), set()) if names else given
        if left:
            merged[group, names, tuple(sorted(left))].append(resource)
    paths = [{"nonResourceURLs": [url], "verbs": [verb]} for url, verb in urls]
    return paths + [
        {
            "apiGroups": [group],
            "resources": sorted(resources),
            **({"resourceNames": list(names)} if names else {}),
            "verbs": list(given),
        }
        for (group, names, given), resources in sorted(
            merged.items(), key=lambda item: (item[0][0], sorted(item[1]), item[0])
        )
    ]


def check(grant: Grant) -> None:
    """Raise `PermanentError` for a wildcard, for a Secret that is not read by name in a namespace, and for nonsense."""
    where = f"grant {grant.group or 'core'}/{','.join(grant.resources)}"
    if any(
        "*" in word
        for word in (grant.group, *grant.resources, *grant.verbs, *grant.names, grant.namespace, *grant.urls)
    ):
        raise PermanentError("a wildcard", where=where, fix="name group, resources and verbs one by one")
    if bool(grant.resources) is bool(grant.urls) or not grant.verbs:
        raise PermanentError("a grant of nothing", where=where, fix="leave it out")
    reads_secrets = (
        grant.group == ""
        and SECRET_READS & set(grant.verbs)
        and any(resource.partition("/")[0] == "secrets" for resource in grant.resources)
    )
    if reads_secrets and not (grant.namespace and grant.names):
        raise PermanentError(
            "reads Secrets that it does not name", where=where, fix="give `names` and `namespace` of each Secret"
        )
    if grant.names and {"create", "deletecollection"} & set(grant.verbs):
        raise PermanentError(
            "create and deletecollection cannot be limited to names: RBAC would never grant this",
            where=where,
            fix="grant it without names, or ship the object",
        )


def account(name: str, namespace: str, component: str) -> Document:
    """Return a ServiceAccount whose token no Pod gets unasked."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, component, namespace),
        "automountServiceAccountToken": False,
    }


def roles(grants: Iterable[Grant], *, name: str, component: str, subject: str, home: str) -> Iterator[Document]:
    """Yield a ClusterRole for what is granted everywhere, a Role for each namespace, and their bindings.

    `subject` is a ServiceAccount of the namespace `home`.
    """
    places: dict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        places[grant.namespace].append(grant)
    who = [{"kind": "ServiceAccount", "name": subject, "namespace": home}]
    for namespace, given in sorted(places.items()):
        kind = "Role" if namespace else "ClusterRole"
        data = metadata(name, component, namespace)
        yield {"apiVersion": f"{API}/v1", "kind": kind, "metadata": data, "rules": rules(given)}
        yield {
            "apiVersion": f"{API}/v1",
            "kind": f"{kind}Binding",
            "metadata": data,
            "roleRef": {"apiGroup": API, "kind": kind, "name": name},
            "subjects": who,
        }


def config_map(name: str, namespace: str, component: str) -> Document:
    """Return an empty ConfigMap to be filled by whoever may patch it; its data is never ours to reset."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name, component, namespace)}


def lease(name: str, namespace: str, component: str) -> Document:
    """Return an empty Lease to contend for.

    RBAC cannot limit `create` to a name. Shipping the Lease leaves an operator with rights on its own alone.
    """
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata(name, component, namespace),
    }
