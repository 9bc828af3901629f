"""Takes secrets out of request and response bodies before a signal, a log line or a bus message may show them.

What stays of a secret value is its length. Bodies are copied, never changed.
"""

import re
from functools import lru_cache
from typing import Any, Final

import msgspec

from ugallu.sdk import AuditObject

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""A whole copy of the object in one annotation: it carries whatever the object carries."""
MAX_DEPTH: Final = 64
_SHORT: Final = 64

_SENSITIVE = re.compile(
    r"(?i)passw(or)?d|passphrase|pgpass|pwd|secret|token|authorization|credential|cookie|bearer|connection.?string"
    r"|(private|api|access|session|account|signing|encryption|shared|storage|master|admin|user|ssh)[._-]?key"
    r"|dockerconfig|kubeconfig|client-key-data|user.?data(base64)?$|^auth$|_auth$|pass$|dsn$"
)
_NAMES_ONLY = re.compile(
    r"(?i)(name|namespace|ref|refs|kind|path|type|mode|ttl|seconds|provider|class|selector|mount)$"
)
_OPAQUE: Final = frozenset({"data", "stringdata", "binarydata"})
_AROUND: Final = frozenset({"annotations", "cells", "message", "causes"})
"""Of a Secret: copies that tools keep in annotations, columns of a table, a refusal that quotes what it refuses."""
_OPAQUE_KINDS: Final = frozenset({"Secret", "SecretList", "ConfigMap", "ConfigMapList"})
_OPAQUE_RESOURCES: Final = frozenset({"secrets", "configmaps"})
_TOKEN_KINDS: Final = frozenset({"TokenReview", "TokenRequest"})
_SAFE_PATCH_PATHS = re.compile(r"/(metadata/(labels|name|namespace|finalizers)|type|immutable)(/|$)")
_SECRET_PATCH_PATHS = re.compile(r"/value$|last-applied-configuration$")
_ABOUT_PATCH: Final = frozenset({"op", "path", "from"})
_VARIABLES: Final = frozenset({"env", "environment", "envvars", "extraenv", "extraenvvars", "httpheaders"})
"""Fields whose values are configuration of a program: nobody can tell by a name which of them is a password."""
_USER_FLAGS: Final = frozenset({"-u", "--user", "--proxy-user"})
"""Flags that take `name:password`."""
_PACKED: Final = "H4sI"
"""How gzip begins in base64: tools keep whole objects like this."""
MAX_INNER: Final = 256 << 10
"""Characters of JSON inside a text that are still read; a longer one is masked whole."""
_WORD: Final = r"(?i:passw(?:or)?d|passphrase|pgpass|pwd|token|secret|(?:api|access|signing|private|account)[_-]?key)"
_IN_TEXT = re.compile(
    r"(?<=://)[^/\s@\"'#?]{1,256}@"  # the user information of a URL
    r"|eyJ[\w-]{16,}(?:\.[\w-]*){0,2}"  # a JSON web token, also one that a cut left without its end
    r"|(?i:bearer|basic)(?:%20|\s){1,8}[\w.~+/=-]{8,}"
    rf"|{_WORD}[\w.-]{{0,64}}(?i:=|%3D)[^\s&\"',]+"
    rf"|(?P<flag>--?[\w-]{{0,64}}{_WORD}[\w-]{{0,64}}\s{{1,8}})[^\s-]\S*"
    rf'|(?P<field>{_WORD}[\w.-]{{0,64}}\\?"\s{{0,8}}:\s{{0,8}}\\?")(?!\[redacted)[^"\\]+'
    r"|-----BEGIN [A-Z ]{0,64}PRIVATE KEY-----[\s\S]*"
    r"|LS0tLS1CRUdJTi(?!BDRVJU|BQVUJM)[\w+/=-]{8,}"  # the same in base64, but no certificate and no public key
)
_HINTS: Final = ("eyj", "bearer", "basic", "pass", "pwd", "token", "secret", "key", "://", "ls0tls1")
"""A text without any of these (lower case) holds nothing that the expression finds; most have none."""


def redacted(body: Any, ref: AuditObject | None) -> Any:  # noqa: ANN401 - any JSON
    """Return the body without secrets; `ref` tells what the request was about.

    What a name tells to be a secret is masked, and every other text is scrubbed.
    """
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
            return _IN_TEXT.sub(_replaced, text)
    return text


def _replaced(found: re.Match[str]) -> str:
    return (found[found.lastgroup] if found.lastgroup else "") + "[redacted]"


def mask(value: object) -> str:
    """Return what may be said of a secret value."""
    size = len(value) if isinstance(value, str | list | dict) else len(str(value))
    return f"[redacted {size}]"


def _clean(value: Any, *, opaque: bool, key: str, depth: int) -> Any:  # noqa: ANN401 - any JSON
    if depth > MAX_DEPTH:
        return "[redacted: nested too deep]"
    if isinstance(value, list):
        return _items(value, opaque=opaque, key=key, depth=depth + 1)
    if not isinstance(value, dict):
        if _sensitive(key) and value not in (None, "") and not isinstance(value, bool):
            return mask(value)
        return _text(value, depth) if isinstance(value, str) else value
    kind = value.get("kind")
    opaque = opaque or (isinstance(kind, str) and kind in _OPAQUE_KINDS)
    tokens = isinstance(kind, str) and kind in _TOKEN_KINDS
    variables = key.lower() in _VARIABLES
    named = value.get("name")
    hidden = isinstance(named, str) and (variables or _suspect(named))
    path, inner_key = value.get("path"), ""
    if isinstance(path, str) and "op" in value:
        hidden = hidden or bool(_SENSITIVE.search(path) or _SECRET_PATCH_PATHS.search(path))
        inner_key = _field(path)
        hidden = hidden or (bool(inner_key) and isinstance(value.get("value"), str))
    clean: dict[str, Any] = {}
    for name, item in value.items():
        if name == LAST_APPLIED or (name == "value" and hidden) or (tokens and name == "token"):
            clean[name] = mask(item)
        elif opaque and (name.lower() in _OPAQUE or name in _AROUND):
            clean[name] = {inner: mask(text) for inner, text in item.items()} if isinstance(item, dict) else mask(item)
        elif variables and not isinstance(named, str) and isinstance(item, str | int | float):
            clean[name] = mask(item)
        else:
            below = inner_key if name == "value" and inner_key else name
            clean[name] = _clean(item, opaque=opaque, key=below, depth=depth + 1)
    return clean


def _items(values: list[Any], *, opaque: bool, key: str, depth: int) -> list[Any]:
    """Of arguments, the one behind a flag that asks for a secret is one; of `NAME=value` variables, all values are."""
    clean: list[Any] = []
    flag = ""
    for item in values:
        if isinstance(item, str):
            name, equals, _ = item.partition("=")
            if flag in _USER_FLAGS and ":" in item:
                clean.append(f"{item.partition(':')[0]}:[redacted]")
            elif flag and flag not in _USER_FLAGS and not item.startswith("-"):
                clean.append(mask(item))
            elif equals and key.lower() in _VARIABLES:
                clean.append(f"{name}=[redacted {len(item) - len(name) - 1}]")
            else:
                clean.append(_clean(item, opaque=opaque, key=key, depth=depth))
            asks = item.startswith("-") and not equals and (item in _USER_FLAGS or _sensitive(item.lstrip("-")))
            flag = item if asks else ""
        else:
            flag = ""
            clean.append(_clean(item, opaque=opaque, key=key, depth=depth))
    return clean


def _text(text: str, depth: int) -> str:
    """Return a text without secrets; where it is JSON, as tools keep whole objects in annotations, like a body."""
    if text.startswith(_PACKED) and len(text) > _SHORT:
        return mask(text)
    bare = text.lstrip()
    if bare[:1] in ("{", "[") and len(bare) > 2:
        if len(text) > MAX_INNER:
            return mask(text)
        try:
            inner = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return mask(text) if bare.startswith('{"') else scrubbed(text)
        opaque = not (isinstance(inner, dict) and "kind" in inner)
        return msgspec.json.encode(_clean(inner, opaque=opaque, key="", depth=depth + 1)).decode()
    return scrubbed(text)


def _field(path: str) -> str:
    """Return the field of variables that a JSON Pointer leads into; empty when it leads into none."""
    return next((step for step in reversed(path.split("/")) if step.lower() in _VARIABLES), "")


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
    return {name: part if name in _ABOUT_PATCH else mask(part) for name, part in item.items()}
