"""The object that a request is about, as far as an audit event tells: the stored one, the sent one, or the patch.

Also where the Pod spec of each kind lies (`$pod`), and its containers (`$ctr`).
"""

from typing import Any

from ugallu_audit_detection.sigma.path import Walk, walk

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
}
"""(API group, resource) -> the way from the object to its Pod spec."""

CONTAINERS = ("containers", "initContainers", "ephemeralContainers")

_SPEC_WALKS: dict[tuple[str, str], Walk] = {key: walk(steps) for key, steps in POD_SPECS.items()}
_MAX_INDEX = 1023


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
    are passed over, because the API server refuses the whole patch then.
    """
    root: Any = _Map()
    for operation in patch:
        if not isinstance(operation, dict):
            continue
        op, path = operation.get("op"), _tokens(operation.get("path"))
        if path is None:
            continue
        if op in ("move", "copy"):
            source = _tokens(operation.get("from"))
            if source is None:
                continue
            value = _read(root, source)
            if op == "move":
                root = _written(root, source, None, "remove")
            if value is not None:
                root = _written(root, path, value, "add")
        elif op in ("add", "replace"):
            root = _written(root, path, operation.get("value"), op)
        elif op == "remove":
            root = _written(root, path, None, op)
    return _plain(root)


class _Map(dict[str, Any]):
    """An object of the projection, which may be written to; the values of the patch itself may not."""


class _Elements:
    """An array of which some elements are known: those at an index, and those whose index is past."""

    def __init__(self, items: list[Any]) -> None:
        self.past: list[Any] = []
        self.at: dict[int, Any] = dict(enumerate(items))

    def shift(self, value: Any) -> None:  # noqa: ANN401 - any JSON
        """Take a new element, and forget which index means which."""
        self.past += self.at.values()
        self.past.append(value)
        self.at = {}


def _tokens(pointer: Any) -> list[str] | None:  # noqa: ANN401 - any JSON
    if pointer == "":
        return []
    if not isinstance(pointer, str) or not pointer.startswith("/") or pointer.count("/") > 64:
        return None
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]


def _index(token: str) -> int | None:
    return int(token) if len(token) <= 9 and token.isascii() and token.isdigit() else None


def _read(node: Any, tokens: list[str]) -> Any:  # noqa: ANN401 - any JSON
    for token in tokens:
        if isinstance(node, dict):
            node = node.get(token)
        elif isinstance(node, _Elements | list):
            index = _index(token)
            known = node.at if isinstance(node, _Elements) else dict(enumerate(node))
            node = known.get(index) if index is not None else None
        else:
            return None
    return node


def _written(node: Any, tokens: list[str], value: Any, op: str) -> Any:  # noqa: ANN401 - any JSON
    """Return `node`, or what must stand in its place, after one operation at `tokens`."""
    if not tokens:
        return value
    token, rest = tokens[0], tokens[1:]
    index = _index(token)
    if isinstance(node, list):
        node = _Elements(node)
    elif isinstance(node, dict) and not isinstance(node, _Map):
        node = _Map(node)
    elif not isinstance(node, dict | _Elements):
        node = _Map() if index is None and token != "-" else _Elements([])  # noqa: S105 - a token of a JSON pointer
    if isinstance(node, _Map):
        node[token] = _written(node.get(token), rest, value, op)
    elif index is None or (not rest and op != "replace"):
        node.shift(_written(None, rest, value, op))
    else:
        node.at[index] = _written(node.at.get(index), rest, value, op)
    return node


def _plain(node: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, _Map):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, _Elements):
        if not node.past and max(node.at, default=0) <= _MAX_INDEX:
            return [_plain(node.at.get(index)) for index in range(max(node.at, default=-1) + 1)]
        return [_plain(value) for value in (*node.past, *node.at.values())]
    return node
