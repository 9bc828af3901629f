"""What an event may hold at most, and how one that holds more is cut. Pure; the caller's data is never changed.

128 signals and 8 KiB for them are the API's limits; 64 KiB for a whole event keeps the store safe from snapshots that
repeat three pod shapes.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from ugallu.api.event import MAX_SIGNAL_BYTES, MAX_SIGNALS, SecurityEventSpec
from ugallu.api.subject import Subject

MAX_SPEC_BYTES = 62 * 1024
"""64 KiB for the object, less what its metadata takes."""
MAX_LIST = 64
"""Entries of `parents` and of `evidence`."""
MAX_KEY_BYTES = 128
MAX_TEXT_BYTES = 1024
"""Names, correlation ids and the like."""
SIGNALS_TRUNCATED = "signals.truncated"
LISTS_TRUNCATED = "lists.truncated"

_MARK = {SIGNALS_TRUNCATED: "true"}
_MARK_BYTES = len(SIGNALS_TRUNCATED) + len("true")
_DISCRIMINATORS = tuple(dict.fromkeys(Subject.DISCRIMINATORS.values()))


def clean(text: str, most: int = MAX_TEXT_BYTES) -> str:
    r"""Return the text with what does not print escaped (`\x1b`, `\u202e`), cut to `most` UTF-8 bytes."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(c) for c in text)
    return _cut(text, most)


def _escape(char: str) -> str:
    point = ord(char)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _cut(text: str, most: int) -> str:
    if len(text) * 4 <= most:
        return text
    raw = text.encode()
    return text if len(raw) <= most else raw[:most].decode(errors="ignore")


def fit_signals(given: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return printable copies of the signals within the limits, marked when something had to go.

    `extra` are our own and stay whole. The longest values are cut first, to an equal length; what is past the 128th
    signal goes.
    """
    own = dict(extra or {})
    kept = {k: v for k, v in given.items() if k not in own}
    # One byte past the limit is enough to see that a value is too long, however long it is.
    keys = [clean(k, MAX_KEY_BYTES + 1) for k in kept]
    signals = {_cut(k, MAX_KEY_BYTES): clean(v, MAX_SIGNAL_BYTES + 1) for k, v in zip(keys, kept.values(), strict=True)}
    short = len(signals) < len(kept) or any(len(k.encode()) > MAX_KEY_BYTES for k in keys)
    if len(signals) + len(own) > MAX_SIGNALS:
        signals = dict(list(signals.items())[: MAX_SIGNALS - len(own) - 1])
        short = True
    budget = MAX_SIGNAL_BYTES - _bytes(own)
    if short or _bytes(signals) > budget:
        own |= _MARK
        signals = _shorten(signals, budget - _MARK_BYTES)
    return signals | own


def brief_signals(signals: Mapping[str, str], most: int) -> dict[str, str]:
    """Return fitted signals within `most` bytes: the longest values are cut first, and that is marked."""
    if _bytes(signals) <= most:
        return dict(signals)
    kept = {k: v for k, v in signals.items() if k != SIGNALS_TRUNCATED}
    return _shorten(kept, most - _MARK_BYTES) | _MARK


def _bytes(signals: Mapping[str, str]) -> int:
    return sum(len(k.encode()) + len(v.encode()) for k, v in signals.items())


def _shorten(signals: dict[str, str], budget: int) -> dict[str, str]:
    """Cut values to the one length at which everything fits; 128 keys of 128 bytes may leave no room: last ones go."""
    keys = dict(signals)
    while keys and sum(len(k.encode()) for k in keys) > budget:
        keys.popitem()
    left = budget - sum(len(k.encode()) for k in keys)
    lengths = sorted(len(v.encode()) for v in keys.values())
    most = 0
    for at, length in enumerate(lengths):
        share = left // (len(lengths) - at)
        if length > share:
            most = share
            break
        most = length
        left -= length
    return {k: _cut(v, most) for k, v in keys.items()}


def fit_spec(spec: SecurityEventSpec) -> SecurityEventSpec:
    """Return the spec within 62 KiB of JSON: long lists are cut, then the subject's largest parts go, `partial` set."""
    if len(spec.parents) > MAX_LIST or len(spec.evidence) > MAX_LIST:
        spec = msgspec.structs.replace(
            spec,
            parents=spec.parents[:MAX_LIST],
            evidence=spec.evidence[:MAX_LIST],
            signals=fit_signals(spec.signals, {LISTS_TRUNCATED: "true"}),
        )
    rest = len(msgspec.json.encode(msgspec.structs.replace(spec, subject=Subject(kind="", name=""))))
    if rest > MAX_SPEC_BYTES // 2:
        # Only evidence and parents with absurd strings can come here; the fact itself is worth more than its links.
        spec = msgspec.structs.replace(
            spec, parents=(), evidence=(), signals=fit_signals(spec.signals, {LISTS_TRUNCATED: "true"})
        )
        rest = len(msgspec.json.encode(msgspec.structs.replace(spec, subject=Subject(kind="", name=""))))
    return msgspec.structs.replace(spec, subject=fit_subject(spec.subject, MAX_SPEC_BYTES - rest))


def fit_subject(subject: Subject, most: int) -> Subject:
    """Return the subject within `most` bytes of JSON: its largest parts go one by one, then all but its coordinates."""
    if len(msgspec.json.encode(subject)) <= most:
        return subject
    subject = msgspec.structs.replace(subject, partial=True)
    while (over := len(msgspec.json.encode(subject)) - most) > 0:
        smaller = _without_largest(subject, over)
        if smaller is None:
            break
        subject = smaller
    return subject if over <= 0 else bare(subject)


def bare(subject: Subject) -> Subject:
    """Return only where the object is, said to be partial and unresolved."""
    return Subject(
        api_version=clean(subject.api_version, 128),
        kind=subject.kind,
        name=clean(subject.name, 256),
        namespace=clean(subject.namespace, 256),
        uid=clean(subject.uid, 128),
        partial=True,
        tombstone=subject.tombstone,
        unresolved=True,
    )


def _without_largest(subject: Subject, over: int) -> Subject | None:
    """Drop the smallest optional part that is large enough, else the largest; None when nothing optional is left."""
    parts = {
        name: len(msgspec.json.encode(getattr(subject, name)))
        for name in ("labels", "owner_references")
        if getattr(subject, name)
    }
    field = Subject.DISCRIMINATORS.get(subject.kind, "")
    snapshot: Any = getattr(subject, field, None)
    inner = {} if snapshot is None else {f.name: f for f in msgspec.structs.fields(snapshot) if not f.required}
    for name, info in inner.items():
        value = getattr(snapshot, name)
        if value != _default(info):
            parts[f".{name}"] = len(msgspec.json.encode(value))
    if not parts:
        return None
    enough = {name: size for name, size in parts.items() if size >= over}
    chosen = min(enough, key=enough.__getitem__) if enough else max(parts, key=parts.__getitem__)
    if not chosen.startswith("."):
        return msgspec.structs.replace(subject, **{chosen: {} if chosen == "labels" else ()})
    chosen = chosen[1:]
    smaller = msgspec.structs.replace(snapshot, **{chosen: _default(inner[chosen])})
    return msgspec.structs.replace(subject, **{field: smaller})


def _default(info: msgspec.structs.FieldInfo) -> object:
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default


def one_discriminator(subject: Subject) -> Subject:
    """Return the subject with no other discriminator than its kind's, and `unresolved` when that one is missing.

    The admission policy refuses anything else, so a subject that slips past here would lose the event.
    """
    own = Subject.DISCRIMINATORS.get(subject.kind)
    foreign = [name for name in _DISCRIMINATORS if name != own and getattr(subject, name) is not None]
    if foreign:
        subject = msgspec.structs.replace(subject, **dict.fromkeys(foreign))
    if not subject.resolved and not subject.unresolved:
        subject = msgspec.structs.replace(subject, unresolved=True)
    return subject
