"""`components/file-only`: nobody serves the audit webhook, because the audit log is read as a file.

A receiver without certificate and token is never ready, and rightly: API servers that call it lose their events. Where
none of them will call, the receiver goes, and with it what only it needs: its Pods, or in `local` audit-detection,
which the reader of the file runs, with its rights, its ports and its Secrets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ugallu.manifests.document import Document, body
from ugallu.manifests.kustomize import changes, key, removal, target

COMPONENT: Final = "file-only"


def patches(
    received: Sequence[Document], before: Sequence[Document], after: Sequence[Document]
) -> list[dict[str, Any]]:
    """Return what takes the objects `received` out, and turns those `before` (of `local`) into those `after`."""
    left = {key(document): document for document in after}
    gone = {key(document): document for document in (*received, *before) if key(document) not in left}
    workload = next(document for document in before if document["kind"] == "Deployment")
    rest = [document for document in before if key(document) in left and document is not workload]
    less = {"target": target(workload), "patch": body([_less(workload, left[key(workload)])])}
    changed = changes(rest, [left[key(document)] for document in rest])
    return [*map(removal, gone.values()), *changed, less]


def _less(before: Document, after: Document) -> Document:
    """Return what takes out of a Deployment what its other self lacks, and leaves alone what others changed in it."""
    pod, then = before["spec"]["template"]["spec"], after["spec"]["template"]["spec"]
    (container,), (wanted,) = pod["containers"], then["containers"]
    lists = (("env", "name"), ("ports", "containerPort"), ("volumeMounts", "mountPath"))
    changed = {
        "name": container["name"],
        "args": wanted["args"],
        "resources": wanted["resources"],
        **{name: _gone(container[name], wanted[name], by) for name, by in lists},
    }
    template = {"spec": {"containers": [changed], "volumes": _gone(pod["volumes"], then["volumes"], "name")}}
    place = {name: before["metadata"][name] for name in ("name", "namespace")}
    return {
        "apiVersion": before["apiVersion"],
        "kind": before["kind"],
        "metadata": place,
        "spec": {"template": template},
    }


def _gone(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    left = {entry[by] for entry in after}
    return [{by: entry[by], "$patch": "delete"} for entry in before if entry[by] not in left]
