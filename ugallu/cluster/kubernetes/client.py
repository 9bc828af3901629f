"""`KubernetesCluster`: the port over a real API server. Bytes go straight into the caller's Struct and back."""

import datetime as dt
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from ugallu.api.core import Lease
from ugallu.api.meta import Resource, encode
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.kubernetes import questions
from ugallu.cluster.kubernetes.auth import Access
from ugallu.cluster.kubernetes.decode import Codec, Reader
from ugallu.cluster.kubernetes.exec import KubernetesPods
from ugallu.cluster.kubernetes.http import Call, Lane, Patience, TooLargeError, Transport
from ugallu.cluster.kubernetes.paths import collection, home, item, place, query
from ugallu.cluster.pods import Target
from ugallu.cluster.port import ANY, InvalidError, Notice, OutdatedError, Page, Preconditions
from ugallu.logs import Logger
from ugallu.metrics import Metrics

R = TypeVar("R", bound=Resource)

OBJECT_BYTES: Final = 32 << 20
PAGE_BYTES: Final = 64 << 20
"""A page that does not fit is asked for again by halves: 500 objects of the largest size would be 750 MB."""
_TRIES: Final = 5
_UNAPPLIED: Final = ("generation", "creationTimestamp", "deletionTimestamp")
"""Of metadata, what the server alone says; `uid` and `resourceVersion` are preconditions."""


class KubernetesCluster:
    """One API server as one identity. `Streams` as well: 1.34 serves lists as the beginning of their watches."""

    def __init__(self, transport: Transport, log: Logger | None = None) -> None:
        self._transport = transport
        self._log = log
        self._codecs: dict[type[Resource], Codec[Any]] = {}
        self._random = random.Random()  # noqa: S311 - spreads reconnects
        self.pods = KubernetesPods(transport)
        """What needs Pods: commands, logs, ephemeral containers."""

    @classmethod
    async def open(
        cls,
        access: Access,
        *,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        log: Logger | None = None,
        patience: Patience = Patience(),  # noqa: B008 - a frozen value
    ) -> Self:
        """Return a client; it connects with the first request."""
        transport = Transport(access, clock=clock or SystemClock(), metrics=metrics or Metrics(), patience=patience)
        return cls(transport, log)

    @property
    def embedded(self) -> bool:
        """False: Pods run here."""
        return False

    @property
    def namespace(self) -> str:
        """The namespace that we are in or that the context names, empty if neither."""
        return self._transport.access.namespace

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Return one object, or raise `NotFoundError`."""
        return await self._one(kind, _reading(kind, name, namespace))

    async def list(
        self,
        kind: type[R],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continue_token: str = "",
    ) -> Page[R]:
        """Return one page, as of now or, behind a token, as of its first page."""
        info = kind.kind_info
        path, where = collection(info, namespace), place(info, namespace, "")
        asked = {"labelSelector": labels, "fieldSelector": fields, "continue": continue_token}
        while True:
            size = {"limit": str(limit)} if limit > 0 else {}
            call = Call("list", "GET", path + query({**asked, **size}), where=where, lane=_lane(kind))
            try:
                answer = await self._transport.call(call, limit=PAGE_BYTES)
            except TooLargeError:
                if limit == 1:
                    raise
                limit = limit // 2 if limit > 0 else 500
                continue
            return self._codec(kind).page(answer.body, where)

    def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield what changed after `since`; ends after some minutes: watch on from the last notice."""
        asked = {"resourceVersion": since, "labelSelector": labels, "fieldSelector": fields}
        return self._watch(kind, namespace, asked, initial=False)

    def stream(
        self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield what there is, a bookmark, and what changes then; `InvalidError` where the server does not serve it."""
        asked = {
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        return self._watch(kind, namespace, asked, initial=True)

    async def create(self, resource: R) -> R:
        """Store a new object and return it as stored."""
        kind, metadata = type(resource), resource.metadata
        if metadata.resource_version:
            # A server answers this with a 500, as if trying again could help.
            raise InvalidError("resourceVersion must not be set on create", where=kind.kind_info.plural)
        path = home(kind.kind_info, metadata.namespace)
        where = place(kind.kind_info, metadata.namespace, metadata.name or metadata.generate_name)
        return await self._one(kind, Call("create", "POST", path, _encode(resource), where=where, lane=_lane(kind)))

    async def apply(self, resource: R, *, manager: str) -> R:
        """Server-side apply as `manager`, forcing conflicts; status is not applied."""
        kind, metadata = type(resource), resource.metadata
        where = place(kind.kind_info, metadata.namespace, metadata.name)
        if not manager:
            raise InvalidError("apply needs a field manager", where=where)
        if not metadata.name:
            raise InvalidError("apply needs a name", where=where)
        document = cast("dict[str, Any]", msgspec.json.decode(_encode(resource)))
        document.pop("status", None)
        for field in _UNAPPLIED:
            document["metadata"].pop(field, None)
        path = item(kind.kind_info, metadata.namespace, metadata.name)
        path += query({"fieldManager": manager, "force": "true"})
        # The type says YAML, of which JSON is a part; `apply-patch+json` does not exist in every version.
        content = "application/apply-patch+yaml"
        with _outdated(metadata.uid):
            return await self._one(kind, Call("apply", "PATCH", path, _encode(document), content, where, _lane(kind)))

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch metadata and spec."""
        changes = {key: value for key, value in patch.items() if key != "status"}
        return await self._patch(kind, name, namespace, changes, when=when)

    async def patch_status(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch status. A uid alone as precondition costs a read: servers ignore it in patches of status."""
        changes = {"status": patch}
        if not when.uid or when.resource_version:
            return await self._patch(kind, name, namespace, changes, part="status", when=when)
        for _ in range(_TRIES):
            seen = await self._one(Resource, _reading(kind, name, namespace))
            if seen.metadata.uid != when.uid:
                break
            version = Preconditions(resource_version=seen.metadata.resource_version)
            try:
                return await self._patch(kind, name, namespace, changes, part="status", when=version)
            except OutdatedError:
                continue
        where = place(kind.kind_info, namespace, name)
        raise OutdatedError(f"the uid is not {when.uid}, or it changes all the time", where=where, fix="read it again")

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        """Delete one object, or raise `NotFoundError`."""
        required = {"uid": when.uid, "resourceVersion": when.resource_version}
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # Some kinds (Jobs) would leave their dependents behind otherwise.
            "propagationPolicy": "Background",
        }
        if any(required.values()):
            options["preconditions"] = {key: value for key, value in required.items() if value}
        info = kind.kind_info
        call = Call(
            "delete", "DELETE", item(info, namespace, name), _encode(options),
            where=place(info, namespace, name), lane=_lane(kind),
        )  # fmt: skip
        await self._transport.call(call, limit=OBJECT_BYTES)

    async def close(self) -> None:
        """Close all connections; open watches end. A second call does nothing."""
        await self._transport.close()

    async def version(self) -> questions.Version:
        """Return what the server says of itself."""
        return await questions.version(self._transport)

    async def server_time(self) -> dt.datetime | None:
        """Return what the server's clock says."""
        return (await self.version()).server_time

    async def fetch(self, path: str) -> bytes:
        """Return the body at a path of the server that is no object: metrics."""
        return (await self._transport.call(Call("get", "GET", path, where=path), limit=PAGE_BYTES)).body

    async def fetch_from_pod(self, target: Target, port: int, path: str) -> bytes:
        """Return what a plain HTTP server in a Pod has at a path; no network policy is in the way."""
        from ugallu.cluster.kubernetes import forward

        return await forward.fetch(self._transport, target, port, path, limit=PAGE_BYTES)

    async def _patch(
        self, kind: type[R], name: str, namespace: str, changes: dict[str, Any], *, part: str = "", when: Preconditions
    ) -> R:
        path, where = item(kind.kind_info, namespace, name, part), place(kind.kind_info, namespace, name)
        content = "application/merge-patch+json"
        metadata = changes.get("metadata") or {}
        required = {"uid": when.uid, "resourceVersion": when.resource_version}
        if any(required.values()):
            if not isinstance(metadata, Mapping):
                raise InvalidError("metadata is no object", where=where)
            changes["metadata"] = {**metadata, **{key: value for key, value in required.items() if value}}
        with _outdated(when.uid):
            return await self._one(kind, Call("patch", "PATCH", path, _encode(changes), content, where, _lane(kind)))

    async def _one(self, kind: type[R], call: Call) -> R:
        answer = await self._transport.call(call, limit=OBJECT_BYTES)
        return self._codec(kind).object(answer.body, call.where)

    async def _watch(
        self, kind: type[R], namespace: str, asked: dict[str, str], *, initial: bool
    ) -> AsyncIterator[Notice[R]]:
        info = kind.kind_info
        where = place(info, namespace, "")
        if not initial and not _is_version(asked["resourceVersion"]):
            # Nothing and zero mean to a server: from anywhere, and what there is as ADDED.
            raise InvalidError(f"{asked['resourceVersion']!r} is no resourceVersion to watch from", where=where)
        patience = self._transport.patience
        lasting = int(patience.watch * self._random.uniform(0.75, 1.25))
        asked = {**asked, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, lasting))}
        call = Call("watch", "GET", collection(info, namespace) + query(asked), where=where, lane=Lane.WATCHES)
        reader = Reader(self._codec(kind), initial=initial, where=where)
        async with self._transport.stream(call, quiet=patience.quiet) as chunks:
            async for chunk in chunks:
                for notice in reader.feed(chunk):
                    yield notice
        if not self._transport.closed:
            reader.end()

    def _codec(self, kind: type[R]) -> Codec[R]:
        codec = self._codecs.get(kind)
        if codec is None:
            codec = self._codecs[kind] = Codec(kind)
        return codec


def _lane(kind: type[Resource]) -> Lane:
    # By what it is, not by class: others read Leases through Structs of their own.
    info, lease = kind.kind_info, Lease.kind_info
    return Lane.LEASES if (info.group, info.name) == (lease.group, lease.name) else Lane.CALLS


def _reading(kind: type[Resource], name: str, namespace: str) -> Call:
    info = kind.kind_info
    return Call("get", "GET", item(info, namespace, name), where=place(info, namespace, name), lane=_lane(kind))


@contextmanager
def _outdated(uid: str) -> Iterator[None]:
    """Raise what a uid that does not hold means: to the server it is no precondition but a field that cannot change."""
    try:
        yield
    except InvalidError as error:
        if uid and "metadata.uid" in error.what:
            raise OutdatedError(error.what, where=error.where, fix="read it again") from error
        raise


def _encode(value: Mapping[str, Any] | Resource) -> bytes:
    """Return JSON, or raise `InvalidError` for what is none."""
    try:
        return encode(value)
    except (RecursionError, TypeError) as error:
        raise InvalidError(f"cannot be written as JSON: {error}") from error


def _is_version(since: str) -> bool:
    # Decimal integers, as KEP-5504 has it. A server answers other words with a 500, as if trying again could help.
    return since.isascii() and since.isdigit() and since.strip("0") != ""
