"""What we ask an API server about itself: its version and clock, which kinds it serves, and what we may do."""

import datetime as dt
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from ugallu.api.meta import Resource
from ugallu.cluster.kubernetes.http import Call, Transport
from ugallu.cluster.kubernetes.paths import group_path
from ugallu.cluster.port import NotFoundError, UnavailableError

LIMIT: Final = 4 << 20


class Version(msgspec.Struct, frozen=True):
    """What the server is, and what its clock says (to the second; None where something on the way left it out)."""

    git_version: str
    major: str
    minor: str
    server_time: dt.datetime | None = None


class Ask(msgspec.Struct, frozen=True):
    """One thing to do: `resource` may have a part (`pods/exec`); empty names and namespaces mean any."""

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str
    major: str = ""
    minor: str = ""


class _Served(msgspec.Struct, frozen=True):
    name: str
    kind: str = ""


class _Group(msgspec.Struct, frozen=True):
    resources: tuple[_Served, ...] | None = None


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


async def version(transport: Transport) -> Version:
    """Return what the server says of itself."""
    answer = await transport.call(Call("get", "GET", "/version", where="version"), limit=LIMIT)
    try:
        said = msgspec.json.decode(answer.body, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("what answered is no API server", where="version") from error
    return Version(said.git_version, said.major, said.minor, _date(answer.date))


async def unserved(transport: Transport, kinds: Iterable[type[Resource]]) -> tuple[type[Resource], ...]:
    """Return those of the kinds that the server does not serve."""
    known: dict[str, frozenset[str]] = {}
    missing: list[type[Resource]] = []
    for kind in kinds:
        path = group_path(kind.kind_info)
        if path not in known:
            known[path] = await _served(transport, path)
        if kind.kind_info.plural not in known[path]:
            missing.append(kind)
    return tuple(missing)


async def may(transport: Transport, ask: Ask) -> bool:
    """Tell whether we may do this (SelfSubjectAccessReview, which everybody may ask)."""
    resource, _, part = ask.resource.partition("/")
    attributes = {
        "verb": ask.verb,
        "group": ask.group,
        "resource": resource,
        "subresource": part,
        "name": ask.name,
        "namespace": ask.namespace,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    path, where = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "selfsubjectaccessreviews"
    call = Call("create", "POST", path, msgspec.json.encode(review), where=where)
    answer = await transport.call(call, limit=LIMIT)
    try:
        return msgspec.json.decode(answer.body, type=_Review).status.allowed
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("what answered is no API server", where=where) from error


async def _served(transport: Transport, path: str) -> frozenset[str]:
    try:
        answer = await transport.call(Call("get", "GET", path, where=path), limit=LIMIT)
        group = msgspec.json.decode(answer.body, type=_Group)
    except NotFoundError:
        return frozenset()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("what answered is no API server", where=path) from error
    return frozenset(one.name for one in group.resources or ())


def _date(header: str) -> dt.datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
