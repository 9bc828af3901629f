"""The writing verbs of an API server, each against one open transaction: create, apply, patch, delete.

Every function returns the body of the object as it then is. What follows from a write (an object that lost its last
finalizer goes, dependents are collected) is part of the same transaction, so no crash leaves it half done.
"""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, Final

from ugallu.api.meta import Kind, Resource
from ugallu.clock import Clock
from ugallu.cluster.embedded import fieldset, names
from ugallu.cluster.embedded.admission import Admission, Writer, check_namespace
from ugallu.cluster.embedded.document import Document, parse, place, render, same, type_key
from ugallu.cluster.embedded.merge import merged
from ugallu.cluster.embedded.policies import EMBEDDED, User
from ugallu.cluster.embedded.store import Place, Version, Writing
from ugallu.cluster.port import (
    ANY,
    AlreadyExistsError,
    Change,
    InvalidError,
    NotFoundError,
    OutdatedError,
    Preconditions,
)

_MANAGED: Final = ("uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion")
_NAME_TRIES: Final = 8


class Verbs:
    """The rules of writing, for one admission, one clock and one user."""

    def __init__(self, admission: Admission, clock: Clock, user: User = EMBEDDED) -> None:
        self._admission = admission
        self._clock = clock
        self._user = user

    def acting(self, user: User) -> "Verbs":
        """Return the same for another user."""
        return Verbs(self._admission, self._clock, user)

    def create(self, tx: Writing, writer: type[Resource], document: Document) -> bytes:
        """Store a new object."""
        metadata = document.get("metadata", {})
        if metadata.get("resourceVersion"):
            raise InvalidError("resourceVersion must not be set on create", where=_where(writer, metadata))
        return self._create(tx, writer, document, None)

    def apply(self, tx: Writing, writer: type[Resource], document: Document, manager: str) -> bytes:
        """Server-side apply, forcing conflicts."""
        metadata = document.get("metadata", {})
        where = _where(writer, metadata)
        if not manager:
            raise InvalidError("apply needs a field manager", where=where)
        if not metadata.get("name"):
            raise InvalidError("apply needs a name", where=where)
        spot = Place(type_key(writer.kind_info), metadata.get("namespace", ""), metadata["name"])
        when = Preconditions(uid=metadata.get("uid", ""), resource_version=metadata.get("resourceVersion", ""))
        applied = {key: value for key, value in document.items() if key != "status"}
        old = tx.newest(spot)
        if old is None:
            if when.uid or when.resource_version:
                raise OutdatedError("the object that the precondition means is gone", where=where)
            _, owned = fieldset.apply(None, applied, None, manager)
            return self._create(tx, writer, applied, owned)
        before = parse(old.body)
        _require(before, when, where)
        # What is owned must be what is stored: prune first.
        applied = self._admission.prune(writer, applied)
        wanted, owned = fieldset.apply(before, applied, fieldset.load(old.owned), manager)
        return self._update(tx, writer, old, before, wanted, owned=owned)

    def patch(
        self, tx: Writing, writer: type[Resource], spot: Place, patch: Mapping[str, Any], when: Preconditions = ANY
    ) -> bytes:
        """Merge-patch everything but status."""
        old, before, where = self._present(tx, writer, spot)
        changes = {key: value for key, value in patch.items() if key != "status"}
        metadata = changes.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise InvalidError("expected `object` - at `$.metadata`", where=where)
        _require(before, when, where)
        asked = Preconditions(
            uid=str(metadata.get("uid") or ""), resource_version=str(metadata.get("resourceVersion") or "")
        )
        _require(before, asked, where)
        _refuse_moves(writer.kind_info, before, changes, where)
        if "metadata" in changes:
            changes["metadata"] = {key: value for key, value in metadata.items() if key not in _MANAGED}
        return self._update(tx, writer, old, before, merged(before, changes), owned=None)

    def patch_status(
        self, tx: Writing, writer: type[Resource], spot: Place, patch: Mapping[str, Any], when: Preconditions = ANY
    ) -> bytes:
        """Merge-patch status alone."""
        old, before, where = self._present(tx, writer, spot)
        _require(before, when, where)
        wanted = self._admission.admit(
            "update", self._writer(tx, writer), merged(before, {"status": patch}), before, "status"
        )
        if wanted.get("status") == {} and "status" not in before:
            del wanted["status"]
        if same(wanted, before):
            return old.body
        return _write(tx, old, wanted, old.owned)

    def delete(self, tx: Writing, writer: type[Resource], spot: Place, when: Preconditions = ANY) -> bytes:
        """Delete one object, or mark it deleted while finalizers hold it."""
        old, before, where = self._present(tx, writer, spot)
        _require(before, when, where)
        self._admission.dismiss(self._writer(tx, writer), before)
        return self._delete(tx, old, before)

    def _writer(self, tx: Writing, kind: type[Resource]) -> Writer:
        def lookup(key: str, name: str) -> Document | None:
            found = tx.newest(Place(key, "", name))
            return None if found is None else parse(found.body)

        return Writer(kind, self._user, lookup)

    def _present(self, tx: Writing, writer: type[Resource], spot: Place) -> tuple[Version, Document, str]:
        where = place(writer.kind_info, spot.namespace, spot.name)
        check_namespace(writer.kind_info, spot.namespace, where)
        old = tx.newest(spot)
        if old is None:
            raise NotFoundError("not found", where=where)
        return old, parse(old.body), where

    def _create(self, tx: Writing, writer: type[Resource], document: Document, owned: fieldset.Owned | None) -> bytes:
        metadata: Document = dict(document.get("metadata", {}))
        key, namespace = type_key(writer.kind_info), metadata.get("namespace", "")
        if not metadata.get("name"):
            metadata["name"] = self._made_up(tx, writer, key, metadata)
        metadata |= {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": self._now(),
        }
        metadata.pop("deletionTimestamp", None)
        metadata.pop("resourceVersion", None)
        new = {key: value for key, value in document.items() if key != "status"}
        new = self._admission.admit("create", self._writer(tx, writer), {**new, "metadata": metadata})
        spot = Place(key, namespace, metadata["name"])
        if tx.newest(spot) is not None:
            raise AlreadyExistsError("already exists", where=_where(writer, metadata))
        text = None
        if owned is not None:
            present = fieldset.leaves(new)
            text = fieldset.dump({who: paths & present for who, paths in owned.items()})
        new["metadata"]["resourceVersion"] = str(tx.upcoming)
        body = render(new)
        tx.put(spot, Change.ADDED, body, text, None)
        owners = _owners(new)
        if owners:
            tx.link(spot, owners)
            self._collect_orphan(tx, spot)
        return body

    def _made_up(self, tx: Writing, writer: type[Resource], key: str, metadata: Document) -> str:
        prefix = metadata.get("generateName", "")
        if not prefix:
            raise InvalidError("name or generateName is required", where=writer.kind_info.plural)
        for _ in range(_NAME_TRIES):
            name = names.generated(prefix)
            if tx.newest(Place(key, metadata.get("namespace", ""), name)) is None:
                return name
        raise AlreadyExistsError(f"no free name found behind {prefix!r}", where=writer.kind_info.plural)

    def _update(
        self,
        tx: Writing,
        writer: type[Resource],
        old: Version,
        before: Document,
        wanted: Document,
        *,
        owned: fieldset.Owned | None,
    ) -> bytes:
        """Store a change of anything but status; `owned` is given by an apply, else follows from the change."""
        where = _where(writer, before["metadata"])
        wanted = self._admission.admit("update", self._writer(tx, writer), wanted, before)
        _tidy(wanted["metadata"])
        if owned is None:
            owned = fieldset.written(before, wanted, fieldset.load(old.owned))
        text = fieldset.dump(owned)
        if same(wanted, before):
            if text != old.owned:
                tx.own(old.revision, text)
            return old.body
        deleting = "deletionTimestamp" in before["metadata"]
        added = set(wanted["metadata"].get("finalizers", ())) - set(before["metadata"].get("finalizers", ()))
        if deleting and added:
            raise InvalidError(
                f"metadata.finalizers: no new finalizer ({min(added)}) while the object is being deleted", where=where
            )
        if not same(_desired(wanted), _desired(before)):
            wanted["metadata"]["generation"] = before["metadata"]["generation"] + 1
        if deleting and not wanted["metadata"].get("finalizers"):
            return self._bury(tx, old, wanted)
        body = _write(tx, old, wanted, text)
        gone, come = _owners(before) - _owners(wanted), _owners(wanted) - _owners(before)
        tx.unlink(old.place, gone)
        if come:
            tx.link(old.place, come)
            self._collect_orphan(tx, old.place)
        return body

    def _delete(self, tx: Writing, old: Version, before: Document) -> bytes:
        metadata = before["metadata"]
        if not metadata.get("finalizers"):
            return self._bury(tx, old, before)
        if "deletionTimestamp" in metadata:
            return old.body
        # An API server counts the mark as a change of what is wanted (rest.BeforeDelete).
        marked = {**metadata, "deletionTimestamp": self._now(), "generation": metadata["generation"] + 1}
        return _write(tx, old, {**before, "metadata": marked}, old.owned)

    def _bury(self, tx: Writing, old: Version, last: Document) -> bytes:
        """Remove an object, then what hung on it alone, and what hung on that."""
        body = _tombstone(tx, old, last)
        ownerless = [last["metadata"]["uid"]]
        while ownerless:
            owner = ownerless.pop()
            for spot in tx.dependents(owner):
                ownerless += self._collect(tx, spot)
        return body

    def _collect_orphan(self, tx: Writing, spot: Place) -> None:
        """Collect an object whose owners were gone before it named them."""
        ownerless = self._collect(tx, spot)
        while ownerless:
            for dependent in tx.dependents(ownerless.pop()):
                ownerless += self._collect(tx, dependent)

    def _collect(self, tx: Writing, spot: Place) -> list[str]:
        """Let go of owners that are gone; without any left the object goes. Return its uid if it went at once."""
        old = tx.newest(spot)
        if old is None:
            return []
        document = parse(old.body)
        metadata = document["metadata"]
        owners = metadata.get("ownerReferences", [])
        present = [owner for owner in owners if _exists(tx, owner, spot.namespace)]
        if len(present) == len(owners):
            return []
        if present:
            wanted = {**document, "metadata": {**metadata, "ownerReferences": present}}
            owned = fieldset.written(document, wanted, fieldset.load(old.owned))
            _write(tx, old, wanted, fieldset.dump(owned))
            tx.unlink(spot, _owners(document) - _owners(wanted))
            return []
        if metadata.get("finalizers"):
            self._delete(tx, old, document)
            return []
        _tombstone(tx, old, document)
        return [metadata["uid"]]

    def _now(self) -> str:
        return self._clock.now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _where(writer: type[Resource], metadata: Document) -> str:
    name = metadata.get("name") or metadata.get("generateName", "")
    return place(writer.kind_info, metadata.get("namespace", ""), name)


def _require(before: Document, when: Preconditions, where: str) -> None:
    metadata = before["metadata"]
    if when.uid and when.uid != metadata["uid"]:
        raise OutdatedError(f"uid is {metadata['uid']}, not {when.uid}", where=where, fix="read it again")
    if when.resource_version and when.resource_version != metadata["resourceVersion"]:
        raise OutdatedError(
            f"resourceVersion is {metadata['resourceVersion']}, not {when.resource_version}",
            where=where,
            fix="read it again",
        )


def _refuse_moves(kind: Kind, before: Document, changes: Mapping[str, Any], where: str) -> None:
    """Refuse a patch that would make another object of this one."""
    for field, value in (("apiVersion", kind.api_version), ("kind", kind.name)):
        if changes.get(field, value) != value:
            raise InvalidError(f"{field}: cannot be changed", where=where)
    metadata, fixed = changes.get("metadata") or {}, before["metadata"]
    for field in ("name", "namespace", "deletionTimestamp"):
        if metadata.get(field) is not None and metadata[field] != fixed.get(field):
            raise InvalidError(f"metadata.{field}: cannot be changed", where=where)
    for field in ("name", "namespace"):
        if field in metadata and metadata[field] is None and fixed.get(field):
            raise InvalidError(f"metadata.{field}: cannot be removed", where=where)


def _tidy(metadata: Document) -> None:
    """Leave out what is empty, as an API server does: emptied labels are no labels."""
    for field in ("labels", "annotations", "finalizers", "ownerReferences"):
        if field in metadata and not metadata[field]:
            del metadata[field]


def _desired(document: Document) -> Document:
    return {key: value for key, value in document.items() if key not in ("metadata", "status")}


def _owners(document: Document) -> set[str]:
    return {owner["uid"] for owner in document["metadata"].get("ownerReferences", ())}


def _exists(tx: Writing, owner: Document, namespace: str) -> bool:
    """Tell whether an owner is there: in the dependent's namespace, or without one."""
    group = owner["apiVersion"].rpartition("/")[0]
    for scope in {namespace, ""}:
        found = tx.newest(Place(f"{group}/{owner['kind']}", scope, owner["name"]))
        if found is not None and parse(found.body)["metadata"]["uid"] == owner["uid"]:
            return True
    return False


def _write(tx: Writing, old: Version, wanted: Document, owned: str | None) -> bytes:
    body = render({**wanted, "metadata": {**wanted["metadata"], "resourceVersion": str(tx.upcoming)}})
    tx.put(old.place, Change.MODIFIED, body, owned, old.revision)
    return body


def _tombstone(tx: Writing, old: Version, last: Document) -> bytes:
    body = render({**last, "metadata": {**last["metadata"], "resourceVersion": str(tx.upcoming)}})
    tx.put(old.place, Change.DELETED, body, None, old.revision)
    tx.unlink(old.place, _owners(last) | _owners(parse(old.body)))
    return body
