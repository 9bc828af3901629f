"""The object that a request is about, as far as an audit event tells: the stored one, the sent one, or the patch.

Also where the Pod spec of each kind lies (`$pod`), and its containers (`$ctr`).
"""

import re
from typing import Any

from ugallu_audit_detection.sigma.path import Walk, walk
from ugallu_audit_detection.sigma.values import text_of

POD_SPECS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "pods"): ("spec",),
    ("", "replicationcontrollers"): ("spec", "template", "spec"),
    ("", "podtemplates"): ("template", "spec"),
    **{
        (group, resource): ("spec", "template", "spec")
        for group in ("apps", "extensions")  # `extensions` lives on in old recordings
        for resource in ("deployments", "statefulsets", "daemonsets", "replicasets")
    },
    ("batch", "jobs"): ("spec", "template", "spec"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template", "spec"),
    # kinds of others that hold a Pod as it stands: Argo Rollouts and Knative Serving
    ("argoproj.io", "rollouts"): ("spec", "template", "spec"),
    ("serving.knative.dev", "services"): ("spec", "template", "spec"),
    ("serving.knative.dev", "configurations"): ("spec", "template", "spec"),
    ("serving.knative.dev", "revisions"): ("spec",),
}
"""(API group, resource) -> the way from the object to its Pod spec."""

CONTAINERS = ("containers", "initContainers", "ephemeralContainers")

_SPEC_WALKS: dict[tuple[str, str], Walk] = {key: walk(steps) for key, steps in POD_SPECS.items()}
_MAX_INDEX = 1023
_position = re.compile(r"[+-]?[0-9]{1,9}").fullmatch
"""An index as the API server reads it; below zero it counts from the end."""

MAX_COPIED = 3 << 20
"""Characters. The API server refuses a JSON Patch whose copies take more."""
MAX_NODES = 20_000
"""Objects and arrays that the patch itself built, copied; they cost more than their characters."""
SMALL_NODES, SMALL_TEXT = 64, 1024
"""What a single copy may always take."""
MAX_DEPTH = 64
MAX_STEPS = MAX_DEPTH * 10_000
"""Tokens of all pointers of a patch, which the API server lets have 10,000 operations."""


def pod_spec(group: str, resource: str, body: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the Pod spec inside `body`; None where the resource has none."""
    steps = _SPEC_WALKS.get((group, resource))
    found = steps(body) if steps else ()
    return found[0] if found else None


def containers(spec: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    """Return all containers of a Pod spec: ordinary, init and ephemeral ones."""
    found: list[Any] = []
    if isinstance(spec, dict):
        for name in CONTAINERS:
            some = spec.get(name)
            if isinstance(some, list):
                found.extend(some)
    return found


def is_resource(body: Any) -> bool:  # noqa: ANN401 - any JSON
    """Whether a response is the object itself: neither a Status, nor a Table, nor a list of objects."""
    if not isinstance(body, dict) or not body:
        return False
    kind = body.get("kind", "")
    if kind in ("Status", "Table", "PartialObjectMetadata"):
        return False
    return not (isinstance(kind, str) and kind.endswith("List") and "items" in body)


def projected(patch: list[Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return what a JSON Patch says about the object: a sparse one that holds what it writes; `remove` leaves a null.

    `test` writes nothing. Indexes into an array are only known until the patch inserts or removes an element, so from
    then on an element that was written stays: a patch must not hide one operation behind another. Malformed operations
    are passed over, because the API server refuses the whole patch then; so are those beyond its own limits.
    """
    root: Any = _Map()
    copies, steps = _Room(), MAX_STEPS
    for operation in patch:
        op = operation.get("op") if isinstance(operation, dict) else None
        if op not in ("add", "replace", "remove", "move", "copy"):
            continue
        path = _tokens(operation.get("path"))
        if path is None or (steps := steps - len(path)) < 0:
            continue
        if op in ("move", "copy"):
            source = _tokens(operation.get("from"))
            if source is None or (steps := steps - len(source)) < 0:
                continue
            value = copies.copied(_read(root, source))
            if op == "move":
                root = _written(root, source, None, "remove")
            if value is not None:
                root = _written(root, path, value, "add")
        else:
            root = _written(root, path, None if op == "remove" else operation.get("value"), op)
    return _plain(root)


class _Map(dict[str, Any]):
    """An object of the projection, which may be written to; the values of the patch itself may not."""


class _Elements:
    """An array of which some elements are known: those at an index, and those whose index is past.

    `0` may be a key as well. What was written stays under its token too, until a token that is no position tells.
    """

    def __init__(self, items: list[Any]) -> None:
        self.past: list[Any] = []
        self.at: dict[int, Any] = dict(enumerate(items))
        self.keyed: dict[str, Any] = {}

    def shift(self, value: Any) -> None:  # noqa: ANN401 - any JSON
        """Take a new element, and forget which index means which."""
        self.past += self.at.values()
        self.past.append(value)
        self.at = {}


class _Room:
    """What the copies of a patch may take. Without a bound each could double what those before it made.

    A small one is always made, so that nobody can use up the room first and copy what matters after.
    """

    def __init__(self) -> None:
        self._nodes = MAX_NODES
        self._characters = MAX_COPIED
        self._own = 0

    def copied(self, node: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return a copy of its own, as far as there is room."""
        self._own = SMALL_NODES
        return self._copied(node)

    def _copied(self, node: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(node, _Map):
            return _Map((key, self._copied(value)) for key, value in node.items()) if self._take(len(node)) else None
        if isinstance(node, _Elements):
            if not self._take(len(node.past) + 2 * len(node.at)):
                return None
            twin = _Elements([])
            twin.past = [self._copied(value) for value in node.past]
            twin.at = {index: self._copied(value) for index, value in node.at.items()}
            twin.keyed = {token: self._copied(value) for token, value in node.keyed.items()}
            return twin
        if not isinstance(node, str | list | dict):
            return node
        size = len(text_of(node))
        if size > SMALL_TEXT:
            self._characters -= size
        return node if size <= SMALL_TEXT or self._characters >= 0 else None

    def _take(self, children: int) -> bool:
        cost = 1 + children // 8
        if cost <= self._own:
            self._own -= cost
        elif cost <= self._nodes:
            self._nodes -= cost
        else:
            return False
        return True


def _tokens(pointer: Any) -> list[str] | None:  # noqa: ANN401 - any JSON
    """Split a pointer as the API server does, which never looks at what stands before the first slash."""
    if pointer == "":
        return []
    if not isinstance(pointer, str) or not 0 < pointer.count("/") <= MAX_DEPTH:
        return None
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _is_position(token: str) -> bool:
    return token == "-" or _position(token) is not None  # noqa: S105 - a token of a JSON pointer


def _index(token: str) -> int | None:
    """The index, unless it counts from an end that nobody knows."""
    index = int(token) if _position(token) else -1
    return index if index >= 0 else None


def _read(node: Any, tokens: list[str]) -> Any:  # noqa: ANN401 - any JSON
    for token in tokens:
        if isinstance(node, dict):
            node = node.get(token)
        elif isinstance(node, _Elements | list) and _position(token):
            index = int(token)
            if isinstance(node, _Elements):
                node = node.at.get(index)
            else:
                node = node[index] if -len(node) <= index < len(node) else None
        else:
            return None
    return node


def _written(node: Any, tokens: list[str], value: Any, op: str, at: int = 0) -> Any:  # noqa: ANN401 - any JSON
    """Return `node`, or what must stand in its place, after one operation at `tokens`, of which `at` are behind us."""
    if at == len(tokens):
        return value
    token, at = tokens[at], at + 1
    if isinstance(node, list):
        node = _Elements(node)
    elif isinstance(node, dict) and not isinstance(node, _Map):
        node = _Map(node)
    elif not isinstance(node, dict | _Elements):
        node = _Elements([]) if _is_position(token) else _Map()
    if isinstance(node, _Elements) and not _is_position(token):
        node = _Map(node.keyed)
    if isinstance(node, _Map):
        node[token] = _written(node.get(token), tokens, value, op, at)
        return node
    index = _index(token)
    if index is None or (at == len(tokens) and op != "replace"):
        node.shift(element := _written(None, tokens, value, op, at))
    else:
        element = node.at[index] = _written(node.at.get(index), tokens, value, op, at)
    node.keyed[token] = element
    return node


def _plain(node: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, _Map):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, _Elements):
        if not node.past and max(node.at, default=0) <= _MAX_INDEX:
            return [_plain(node.at.get(index)) for index in range(max(node.at, default=-1) + 1)]
        return [_plain(value) for value in (*node.past, *node.at.values())]
    return node
