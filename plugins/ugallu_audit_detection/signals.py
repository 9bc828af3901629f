"""What an event says about the request that caused it: the base signals, and a rule's own templates.

A template is expanded in one pass, so nothing that a client sent is ever read as a placeholder. Every value is cut,
scrubbed of what looks like a token, and freed of characters that do not print.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from ugallu.sdk import MAX_SIGNAL_BYTES, MAX_SIGNALS
from ugallu_audit_detection.body import ascii_key
from ugallu_audit_detection.redact import scrubbed
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.sigma.path import Walk, json_path, walk
from ugallu_audit_detection.sigma.values import text_of

MAX_VALUE: Final = 1024
"""Bytes of one value."""
MAX_AUDIT_ID: Final = 256
CUT: Final = "signals.cut"
"""Present when a rule's signals did not fit into the event; its value counts those left out."""

_ROOM: Final = MAX_SIGNAL_BYTES - 3072
"""Bytes for a rule's own signals: the base ones and `CUT` stay below 3 KiB, each being cut."""

_OURS: Final = frozenset({"rule", "audit.id", "audit.stage"})
"""What a rule's own signals may not replace: by these an event is traced back to its log line."""

Getter = Callable[[Seen], str]
Template = Callable[[Seen], str]

_placeholder = re.compile(r"\$\{([^{}]{1,300})\}")
_technique = re.compile(r"(?i)attack\.(t\d{4}(?:\.\d{3})?)")

_SIMPLE: Final[dict[str, Getter]] = {
    "verb": lambda seen: seen.record.verb,
    "stage": lambda seen: seen.record.stage,
    "level": lambda seen: seen.record.level,
    "auditID": lambda seen: seen.record.audit_id,
    "requestURI": lambda seen: seen.record.request_uri,
    "userAgent": lambda seen: seen.record.user_agent,
    "user.username": lambda seen: seen.user.username,
    "user.uid": lambda seen: seen.user.uid,
    "user.groups": lambda seen: ",".join(seen.user.groups),
    "impersonatedUser.username": lambda seen: seen.acting_as.username,
    "impersonatedUser.groups": lambda seen: ",".join(seen.acting_as.groups),
    "sourceIPs": lambda seen: ",".join(seen.source_ips),
    "sourceIPs[-1]": lambda seen: seen.source_ips[-1] if seen.source_ips else "",
    "responseStatus.code": lambda seen: str(seen.response.code or ""),
    "responseStatus.reason": lambda seen: seen.response.reason,
    "objectRef.name": lambda seen: _ref(seen, "name"),
    "objectRef.namespace": lambda seen: _ref(seen, "namespace"),
    "objectRef.resource": lambda seen: _ref(seen, "resource"),
    "objectRef.subresource": lambda seen: _ref(seen, "subresource"),
    "objectRef.apiGroup": lambda seen: _ref(seen, "api_group"),
    "objectRef.apiVersion": lambda seen: _ref(seen, "api_version"),
    "objectRef.uid": lambda seen: _ref(seen, "uid"),
}


def _ref(seen: Seen, field: str) -> str:
    return str(getattr(seen.record.object_ref, field, ""))


def getter(name: str) -> Getter | None:
    """Return what reads this placeholder (without `${}`) from an event; None when there is no such placeholder.

    Raises `RuleError` for a JSON path that does not parse.
    """
    simple = _SIMPLE.get(name)
    if simple is not None:
        return simple
    if name.startswith("user.extra."):
        key = name.removeprefix("user.extra.")
        return lambda seen: ",".join(seen.user.extra.get(key, ()))
    if name.startswith("annotations."):
        note = name.removeprefix("annotations.")
        return lambda seen: seen.annotations.get(note, "")
    body, colon, path = name.partition(":")
    if colon and body in ("requestObject", "responseObject"):
        steps = walk(json_path(path, where=f"${{{name}}}", aliases=False).steps)
        if body == "requestObject":
            return lambda seen: _values(seen.shown_request, steps)
        return lambda seen: _values(seen.shown_response, steps)
    return None


def _values(body: Any, steps: Walk) -> str:  # noqa: ANN401 - any JSON
    return ",".join(text_of(value)[: 4 * MAX_VALUE] for value in steps(body)[:64])


def template(text: str) -> Template:
    """Compile a value with placeholders; an unknown one stays as text."""
    parts: list[str | Getter] = []
    at = 0
    for found in _placeholder.finditer(text):
        read = getter(found.group(1))
        if read is not None:
            parts += [text[at : found.start()], read]
            at = found.end()
    parts.append(text[at:])

    def expand(seen: Seen) -> str:
        return shown("".join(part if isinstance(part, str) else part(seen) for part in parts))

    return expand


def shown(text: str, limit: int = MAX_VALUE) -> str:
    """Return text as an event may hold it: scrubbed, printable, at most `limit` bytes of UTF-8."""
    clean = scrubbed(text[: 4 * limit])[: 2 * limit]
    if not clean.isprintable():
        clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean)
    clean = clean[:limit]
    return clean if clean.isascii() else clean.encode()[:limit].decode(errors="ignore")


_shown_again = lru_cache(maxsize=4096)(shown)
"""For what repeats from event to event: verbs, callers, agents. Only short texts, or it would be a heap of them."""


def _familiar(text: str, limit: int) -> str:
    return _shown_again(text, limit) if len(text) <= limit else shown(text, limit)


def technique_of(tags: Sequence[str]) -> str:
    """Return the ATT&CK techniques among a rule's tags: `T1609,T1613`."""
    found = (_technique.fullmatch(tag) for tag in tags)
    return ",".join(dict.fromkeys(tag.group(1).upper() for tag in found if tag))


class Signals:
    """What a rule's events say; compiled once for each version of the rule."""

    def __init__(self, rule: str, tags: Sequence[str], templates: Mapping[str, str]) -> None:
        self._rule = rule
        self._technique = technique_of(tags)
        self._templates = [
            (ascii_key(name), template(text)) for name, text in sorted(templates.items()) if name not in _OURS
        ]

    def of(self, seen: Seen, base: Mapping[str, str]) -> dict[str, str]:
        """Return the signals of an event: `base_of` it, then the rule's own as far as they fit."""
        found = {"rule": self._rule, **base}
        if self._technique:
            found["attack.technique"] = self._technique
        room, left_out = _ROOM, 0
        for name, expand in self._templates:
            value = expand(seen)
            cost = len(name) + len(value.encode())
            if cost > room or len(found) >= MAX_SIGNALS - 1:
                left_out += 1
                continue
            found[name] = value
            room -= cost
        if left_out:
            found[CUT] = str(left_out)
        return found


def base_of(seen: Seen) -> dict[str, str]:
    """Return what every event says of its request, as far as it is known; the same for all rules."""
    record, response = seen.record, seen.response
    known = {
        "audit.id": shown(record.audit_id, MAX_AUDIT_ID),
        "audit.stage": _familiar(record.stage, 32),
        "verb": _familiar(record.verb, 32),
        "user": _familiar(seen.user.username, 256),
        "user.groups": _familiar(",".join(seen.user.groups[:64]), 512),
        "impersonated": _familiar(seen.acting_as.username, 256),
        "source.ip": _familiar(seen.source_ips[-1], 64) if seen.source_ips else "",
        "user.agent": _familiar(record.user_agent, 256),
        "response.code": str(response.code) if response.code else "",
        "outcome": "" if response.code else "unknown",
        "request.uri": shown(record.request_uri),
        "audit.truncated": "true" if seen.truncated else "",
        "dry.run": "true" if seen.dry_run else "",
    }
    return {name: value for name, value in known.items() if value}
