"""What an event is called, and how two events are compared. Pure: the same fact has the same name on every machine."""

import hashlib
import re
from typing import NamedTuple

import msgspec

from ugallu.api.event import SecurityEventSpec

_TAG = "ugallu/v1"
_HEX32 = re.compile(r"[0-9a-f]{32}\Z")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_canonical = msgspec.json.Encoder(order="sorted")


def _hash(*parts: str) -> str:
    return hashlib.sha256(_canonical.encode(parts)).hexdigest()


class Fact(NamedTuple):
    """What makes a fact this fact, whenever it was seen: `key` is the detector's word."""

    cluster_id: str
    event_class: str
    type: str
    subject_key: str
    key: str

    def name(self, correlation: str) -> str:
        """Return the name of its event: `se-` and 24 hex digits."""
        return f"se-{_hash(_TAG, *self, correlation)[:24]}"

    def correlation(self, at: int) -> str:
        """Return 32 hex digits for a finding that came without: one minute shares it (`at`: Unix time)."""
        return _hash(_TAG, "correlation", *self, str(at - at % 60))[:32]

    def fold(self, component: str) -> bytes:
        """Return 16 bytes that equal findings of a component share, whatever their time and correlation."""
        return bytes.fromhex(_hash(_TAG, "fold", component, *self)[:32])


def derived_name(spec: SecurityEventSpec, purpose: str, base: str) -> str:
    """Return the name of an event that exists because of the event called `base`: a rise, a closing."""
    cluster_id = spec.cluster_identity.cluster_id
    fact = Fact(cluster_id, spec.class_.value, spec.type, spec.subject.key, f"{purpose}:{base}")
    return fact.name(spec.correlation_id)


def suffixed(name: str, number: int) -> str:
    """Return the name under which the `number`-th different fact of one name is stored; the first has none."""
    return name if number == 1 else f"{name}-{number}"


def digest(spec: SecurityEventSpec) -> str:
    """Return `sha256:<hex>` over the canonical JSON of the spec."""
    return f"sha256:{hashlib.sha256(_canonical.encode(spec)).hexdigest()}"


def same_fact(one: SecurityEventSpec, other: SecurityEventSpec) -> bool:
    """Whether two events say the same, whichever replica of a component says it, before an upgrade or after."""
    return _untold(one) == _untold(other)


def _untold(spec: SecurityEventSpec) -> bytes:
    teller = msgspec.structs.replace(spec.source, instance="", version="")
    return _canonical.encode(msgspec.structs.replace(spec, source=teller))


def correlation_label(value: str) -> str:
    """Return a correlation id as a label: 32 hex digits, the id itself when it is that already."""
    return value if _HEX32.match(value) else hashlib.sha256(value.encode()).hexdigest()[:32]


def label_value(text: str) -> str:
    """Return the text when it is a legal label value, else what is legal of it and 8 hex digits of its hash."""
    if _LABEL.match(text):
        return text
    legal = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:54].strip("_.-")
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{legal}-{mark}" if legal else mark


def traceparent(given: str, correlation_id: str, name: str) -> str:
    """Return W3C trace context: the given one if well formed, else one made of correlation and name."""
    if _TRACEPARENT.match(given):
        return given
    trace = correlation_label(correlation_id)
    if not int(trace, 16):
        trace = _hash(_TAG, "trace", name)[:32]
    return f"00-{trace}-{_hash(_TAG, 'span', name)[:16]}-01"
