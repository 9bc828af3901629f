"""ClusterRoles for those who work with the objects; installing them gives nobody anything but `view` its reading."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ugallu.api.meta import GROUP, Resource
from ugallu.manifests.document import Document
from ugallu.manifests.names import metadata
from ugallu.manifests.rbac import API

READ: Final = ("get", "list", "watch")
WRITE: Final = ("create", "delete", "get", "list", "patch", "update", "watch")
RECORDS: Final = frozenset({"SecurityEvent", "EventResponse", "AttestationBundle"})
"""What operators write down; people answer to it and never write it."""
REPORTS: Final = ("Result", "Profile")


def written_by_people(kind: type[Resource]) -> bool:
    """Tell whether a person writes objects of this kind: configs, rules, boundaries and runs."""
    name = kind.kind_info.name
    return name not in RECORDS and not name.endswith(REPORTS)


def cluster_roles(kinds: Sequence[type[Resource]]) -> Iterator[Document]:
    """Yield `ugallu-view`, `ugallu-edit` and `ugallu-responder`.

    Only reading is aggregated, into `view` and by it into `edit` and `admin`. A run names its target, which may be in
    another namespace: whoever may create one gets what the operator may do, and that is for an administrator to give.
    """
    known = [kind.kind_info.plural for kind in kinds if kind.kind_info.group == GROUP]
    ours = [kind.kind_info.plural for kind in kinds if kind.kind_info.group == GROUP and written_by_people(kind)]
    yield _role("ugallu-view", [(known, READ)], aggregate="view")
    yield _role("ugallu-edit", [(ours, WRITE)])
    yield _role(
        "ugallu-responder",
        [
            (known, READ),
            # An acknowledgement is a status; a legal hold, or the word that an incident may thaw, an annotation.
            # Admission policies keep the spec and the rest of the status as they were, and ask who it is for each.
            (["eventresponses", "securityevents"], ("patch",)),
            # `kubectl patch --subresource=status` reads what it is about to patch there.
            (["securityevents/status"], ("get", "patch")),
        ],
    )


def _role(name: str, given: list[tuple[list[str], tuple[str, ...]]], aggregate: str = "") -> Document:
    data: dict[str, Any] = metadata(name, "access")
    if aggregate:
        data = {**data, "labels": {**data["labels"], f"rbac.authorization.k8s.io/aggregate-to-{aggregate}": "true"}}
    return {
        "apiVersion": f"{API}/v1",
        "kind": "ClusterRole",
        "metadata": data,
        "rules": [
            {"apiGroups": [GROUP], "resources": sorted(resources), "verbs": list(verbs)} for resources, verbs in given
        ],
    }
