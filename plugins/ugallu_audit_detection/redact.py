"""Takes secrets out of request and response bodies before a signal, a log line or a bus message may show them.

What stays of a secret value is its length. Bodies are copied, never changed.
"""

import re
from functools import lru_cache
from typing import Any, Final

from ugallu.sdk import AuditObject

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""A whole copy of the object in one annotation: it carries whatever the object carries."""
MAX_DEPTH: Final = 64
_SHORT: Final = 64

_SENSITIVE = re.compile(
    r"(?i)passw(or)?d|passphrase|secret|token|authorization|credential|cookie|bearer|private.?key|api.?key|access.?key|session.?key"
    r"|dockerconfig|kubeconfig|client-key-data|^auth$|_auth$|connection.?string|dsn$"
)
_NAMES_ONLY = re.compile(
    r"(?i)(name|namespace|ref|refs|kind|path|type|mode|ttl|seconds|provider|class|selector|mount)$"
)
_OPAQUE: Final = frozenset({"data", "stringdata", "binarydata"})
_OPAQUE_KINDS: Final = frozenset({"Secret", "SecretList", "ConfigMap", "ConfigMapList"})
_OPAQUE_RESOURCES: Final = frozenset({"secrets", "configmaps"})
_TOKEN_KINDS: Final = frozenset({"TokenReview", "TokenRequest"})
_SAFE_PATCH_PATHS = re.compile(r"/(metadata/(labels|name|namespace|finalizers)|type|immutable)(/|$)")
_SECRET_PATCH_PATHS = re.compile(r"/value$|last-applied-configuration$")
_IN_TEXT = re.compile(
    r"(?<=://)[^/\s@\"']{1,256}@"  # the user information of a URL
    r"|eyJ[\w-]{16,}(?:\.[\w-]*){0,2}"  # a JSON web token, also one that a cut left without its end
    r"|(?i:bearer|basic)(?:%20|\s){1,8}[\w.~+/=-]{8,}"
    r"|(?i:passw(?:or)?d|token|secret|api_?key)[\w.-]{0,64}(?i:=|%3D)[^\s&\"',]+"
)
_HINTS: Final = ("eyj", "bearer", "basic", "passw", "token", "secret", "apikey", "api_key", "://")
"""A text without any of these (lower case) holds nothing that the expression finds; most have none."""


def redacted(body: Any, ref: AuditObject | None) -> Any:  # noqa: ANN401 - any JSON
    """Return the body without secrets; `ref` tells what the request was about."""
    core = ref is not None and not ref.api_group
    opaque = core and ref is not None and ref.resource in _OPAQUE_RESOURCES
    if opaque and isinstance(body, list):
        return [_operation(item) for item in body]
    return _clean(body, opaque=opaque, key="", depth=0)


def scrubbed(text: str) -> str:
    """Return free text (a URI, a message, an argument) without tokens and passwords that can be told by their shape."""
    lower = text.lower()
    for hint in _HINTS:
        if hint in lower:
            return _IN_TEXT.sub("[redacted]", text)
    return text


def mask(value: object) -> str:
    """Return what may be said of a secret value."""
    size = len(value) if isinstance(value, str | list | dict) else len(str(value))
    return f"[redacted {size}]"


def _clean(value: Any, *, opaque: bool, key: str, depth: int) -> Any:  # noqa: ANN401 - any JSON
    if depth > MAX_DEPTH:
        return "[redacted: nested too deep]"
    if isinstance(value, list):
        return [_clean(item, opaque=opaque, key=key, depth=depth + 1) for item in value]
    if not isinstance(value, dict):
        return mask(value) if _sensitive(key) and value not in (None, "") and not isinstance(value, bool) else value
    kind = value.get("kind")
    opaque = opaque or (isinstance(kind, str) and kind in _OPAQUE_KINDS)
    tokens = isinstance(kind, str) and kind in _TOKEN_KINDS
    named = value.get("name")
    hidden = isinstance(named, str) and _suspect(named)
    path = value.get("path")
    if isinstance(path, str) and "op" in value:
        hidden = hidden or bool(_SENSITIVE.search(path) or _SECRET_PATCH_PATHS.search(path))
    clean: dict[str, Any] = {}
    for name, item in value.items():
        if name == LAST_APPLIED or (name == "value" and hidden) or (tokens and name == "token"):
            clean[name] = mask(item)
        elif opaque and name.lower() in _OPAQUE:
            clean[name] = {inner: mask(text) for inner, text in item.items()} if isinstance(item, dict) else mask(item)
        else:
            clean[name] = _clean(item, opaque=opaque, key=name, depth=depth + 1)
    return clean


def _sensitive(key: str) -> bool:
    return bool(key) and _suspect(key) and not _NAMES_ONLY.search(key)


def _suspect(word: str) -> bool:
    """Tell whether a name speaks of a secret. Objects have the same names again and again: short ones are kept."""
    return _remembered(word) if len(word) <= _SHORT else bool(_SENSITIVE.search(word))


@lru_cache(maxsize=8192)
def _remembered(word: str) -> bool:
    return bool(_SENSITIVE.search(word))


def _operation(item: Any) -> Any:  # noqa: ANN401 - one operation of a JSON Patch, if it is one
    """A JSON Patch may put a secret at any path, so a value is shown only at a path known to hold none."""
    if not isinstance(item, dict):
        return mask(item)
    path = item.get("path")
    if isinstance(path, str) and _SAFE_PATCH_PATHS.match(path):
        return item
    return {name: mask(part) if name == "value" else part for name, part in item.items()}
