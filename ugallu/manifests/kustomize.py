"""Folders of a Kustomize tree. Every file in one is listed, nothing is listed that is not there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ugallu.manifests.document import Document, body, render

LISTING: Final = "kustomization.yaml"
COMPONENT: Final = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
_FIXED: Final = ("apiVersion", "kind", "metadata")
KUSTOMIZATION: Final = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder: its own files, the folders that it takes in (relative), and what it changes."""

    path: str
    files: Mapping[str, Sequence[Document]] = field(default_factory=dict)
    resources: Sequence[str] = ()
    components: Sequence[str] = ()
    patches: Sequence[Mapping[str, Any]] = ()
    images: Sequence[Mapping[str, str]] = ()
    component: bool = False
    """Whether it adds to what takes it in, instead of standing alone."""

    def texts(self) -> dict[str, str]:
        """Return its files by path, with their text."""
        listing: dict[str, Any] = dict(COMPONENT if self.component else KUSTOMIZATION)
        if resources := [*self.resources, *self.files]:
            listing["resources"] = resources
        for key in ("components", "patches", "images"):
            if entries := getattr(self, key):
                listing[key] = list(entries)
        written = {name: render(documents) for name, documents in self.files.items()}
        return {f"{self.path}/{name}": text for name, text in {LISTING: render([listing]), **written}.items()}


def changes(before: Iterable[Document], after: Iterable[Document]) -> list[dict[str, Any]]:
    """Return the patches that give each object of `before` the content that it has in `after`, its metadata apart."""
    there = {key(document): document for document in before}
    found = []
    for document in after:
        old = there[key(document)]
        operations = [
            {"op": "replace", "path": f"/{name}", "value": document[name]}
            for name in document
            if name not in _FIXED and old[name] != document[name]
        ]
        if operations:
            found.append({"target": target(document), "patch": body([operations])})
    return found


def removal(document: Document) -> dict[str, Any]:
    """Return the patch that takes an object out, wherever it is there."""
    gone = {"apiVersion": document["apiVersion"], "kind": document["kind"], "metadata": {"name": "any"}}
    return {"target": target(document), "patch": body([{**gone, "$patch": "delete"}])}


def target(document: Document) -> dict[str, str]:
    """Return what selects an object; a patch with a target does nothing where the object is not."""
    group, _, version = document["apiVersion"].rpartition("/")
    place = {"namespace": space} if (space := document["metadata"].get("namespace")) else {}
    return {
        **({"group": group} if group else {}),
        "version": version,
        "kind": document["kind"],
        "name": document["metadata"]["name"],
        **place,
    }


def key(document: Document) -> tuple[str, str, str]:
    """Return what names an object in one installation: kind, namespace, name."""
    data = document["metadata"]
    return document["kind"], data.get("namespace", ""), data["name"]
