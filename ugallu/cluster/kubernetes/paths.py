"""Where things are on an API server: the URL paths of kinds and objects, and how messages name them. Pure."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from ugallu.api.meta import Kind
from ugallu.cluster.port import InvalidError, NotFoundError

_NO_NAMES: Final = ("", ".", "..")
"""A path would lead elsewhere with these: an empty name reads the whole list."""


def place(kind: Kind, namespace: str, name: str) -> str:
    """Return how messages name an object, or a list of them."""
    return "/".join(part for part in (kind.plural, namespace, name) if part)


def group_path(kind: Kind) -> str:
    """Return the path of the kind's group and version."""
    return f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"


def collection(kind: Kind, namespace: str = "") -> str:
    """Return the path of a list; an empty namespace means all. Raises `InvalidError` for a scope the kind has not."""
    if not namespace:
        return f"{group_path(kind)}/{kind.plural}"
    if not kind.namespaced:
        raise InvalidError("objects of this kind have no namespace", where=place(kind, namespace, ""))
    return f"{group_path(kind)}/namespaces/{_part(namespace)}/{kind.plural}"


def home(kind: Kind, namespace: str) -> str:
    """Return the path that objects are created under; raises `InvalidError` for a namespace too many or too few."""
    if kind.namespaced and not namespace:
        raise InvalidError("a namespace is required", where=kind.plural)
    return collection(kind, namespace)


def item(kind: Kind, namespace: str, name: str, part: str = "") -> str:
    """Return the path of an object or of a part of it (`status`, `log`).

    Raises `NotFoundError` for what can be no name, `InvalidError` for a namespace too many or too few.
    """
    where = place(kind, namespace, name)
    if name in _NO_NAMES or "/" in name or "%" in name:
        raise NotFoundError(f"{name!r} is no name", where=where)
    if kind.namespaced and not namespace:
        raise InvalidError("a namespace is required", where=where)
    path = f"{collection(kind, namespace)}/{quote(name, safe='')}"
    return f"{path}/{part}" if part else path


def query(values: Mapping[str, str]) -> str:
    """Return a query string of the values that are not empty, with its question mark."""
    text = urlencode({key: value for key, value in values.items() if value})
    return f"?{text}" if text else ""


def _part(namespace: str) -> str:
    if namespace in _NO_NAMES or "/" in namespace or "%" in namespace:
        raise InvalidError(f"{namespace!r} is no namespace")
    return quote(namespace, safe="")
