"""Server-side apply: who owns which fields, and what an apply makes of an object. Pure.

A path is a tuple of keys to a leaf: a scalar, a list or an empty object. Lists are atomic, as in a schema without list
types; only `metadata.finalizers` and `metadata.ownerReferences` are owned by their elements, as in Kubernetes. Writers
that do not apply (create, patch) own their fields together, under the empty name.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from ugallu.cluster.embedded.document import Document

Path: TypeAlias = tuple[str, ...]
Owned: TypeAlias = dict[str, set[Path]]

_NOT_OWNED = frozenset({"apiVersion", "kind", "status"})
_SYSTEM = ("name", "namespace", "generateName", "uid", "resourceVersion", "generation", "creationTimestamp",
           "deletionTimestamp")  # fmt: skip


def load(text: str | None) -> Owned | None:
    """Read stored ownership; None when nobody ever applied."""
    return None if text is None else msgspec.json.decode(text, type=dict[str, set[Path]])


def dump(owned: Owned | None) -> str | None:
    """Write ownership for the store."""
    if owned is None:
        return None
    return msgspec.json.encode({who: sorted(paths) for who, paths in sorted(owned.items())}).decode()


def leaves(document: Document) -> set[Path]:
    """Return the paths of everything in a document that somebody can own."""
    return set(_walk(_granular(document), ()))


def apply(live: Document | None, applied: Document, owned: Owned | None, manager: str) -> tuple[Document, Owned]:
    """Return the object after `manager` applied these fields by force, and who owns what then.

    What the manager owned and leaves out now goes, unless another manager owns it as well.
    """
    wanted = _granular(applied)
    if live is None:
        return applied, {manager: leaves(applied)}
    target = _granular(live)
    if owned is None:
        owned = {"": set(_walk(target, ()))}
    mine = set(_walk(wanted, ()))
    others = {who: paths for who, paths in owned.items() if who != manager}
    taken = {path for path in mine if _at(target, path) != _at(wanted, path)}
    for path in owned.get(manager, set()) - mine - set().union(*others.values()):
        _remove(target, path)
    for path in _walk(wanted, ()):
        _set(target, path, _at(wanted, path))
    result = _plain(target, live)
    present = leaves(result)
    after = {who: (paths - taken) & present for who, paths in others.items()}
    after[manager] = mine & present
    return result, {who: paths for who, paths in after.items() if paths or who == manager}


def written(before: Document, after: Document, owned: Owned | None) -> Owned | None:
    """Return who owns what once a writer that does not apply turned `before` into `after`."""
    if owned is None:
        return None
    old, new = _granular(before), _granular(after)
    present = set(_walk(new, ()))
    changed = {path for path in present if _at(old, path) != _at(new, path)}
    result = {who: (paths - changed) & present for who, paths in owned.items()}
    result[""] = result.get("", set()) | changed
    return {who: paths for who, paths in result.items() if paths or who}


def _granular(document: Document) -> Document:
    """The part of a document that can be owned, as a copy, element-wise lists turned into objects."""
    copy = {key: _copied(value) for key, value in document.items() if key not in _NOT_OWNED}
    metadata = {key: value for key, value in copy.get("metadata", {}).items() if key not in _SYSTEM}
    if "finalizers" in metadata:
        metadata["finalizers"] = dict.fromkeys(metadata["finalizers"], True)
    if "ownerReferences" in metadata:
        # One element is one leaf: a list is atomic, so the reference travels inside one.
        metadata["ownerReferences"] = {owner.get("uid", ""): [owner] for owner in metadata["ownerReferences"]}
    copy.pop("metadata", None)
    return {**copy, "metadata": metadata} if metadata else copy


def _plain(document: Document, live: Document) -> Document:
    """The inverse of `_granular`; what nobody owns is as in the live object."""
    metadata = {key: value for key, value in live["metadata"].items() if key in _SYSTEM} | document.get("metadata", {})
    if isinstance(metadata.get("finalizers"), dict):
        metadata["finalizers"] = list(metadata["finalizers"])
    if isinstance(metadata.get("ownerReferences"), dict):
        metadata["ownerReferences"] = [boxed[0] for boxed in metadata["ownerReferences"].values()]
    fixed = {key: value for key, value in live.items() if key in _NOT_OWNED}
    return {**fixed, **document, "metadata": metadata}


def _copied(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return {key: _copied(part) for key, part in value.items()} if isinstance(value, dict) else value


def _walk(value: Any, path: Path) -> Iterator[Path]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and (value or not path):
        for key, part in value.items():
            yield from _walk(part, (*path, key))
    else:
        yield path


_ABSENT = object()


def _at(document: Document, path: Path) -> Any:  # noqa: ANN401 - any JSON value
    value: Any = document
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _set(document: Document, path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    *parents, last = path
    for key in parents:
        if not isinstance(document.get(key), dict):
            document[key] = {}
        document = document[key]
    # An empty object that is applied says "there is one", not "empty it".
    if not (value == {} and isinstance(document.get(last), dict)):
        document[last] = value


def _remove(document: Document, path: Path) -> None:
    """Remove a leaf, and the objects that it leaves empty."""
    chain = [document]
    for key in path[:-1]:
        below = chain[-1].get(key)
        if not isinstance(below, dict):
            return
        chain.append(below)
    for holder, key in zip(reversed(chain), reversed(path), strict=True):
        holder.pop(key, None)
        if holder:
            return
