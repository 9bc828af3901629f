"""From the document of a correlation to what it asks: whose matches, grouped by what, in which window. Pure."""

import hashlib
import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from ugallu_audit_detection.correlation.windows import Chain, Counting, Distinct, Ordered, Window
from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.expr import Field, Shape
from ugallu_audit_detection.sigma.upstream import field_named
from ugallu_audit_detection.sigma.values import text_of
from ugallu_audit_detection.sigma.view import RecordView

MAX_SPAN: Final = 24 * 3600
MAX_COUNT: Final = 10_000
MAX_CHAINS: Final = 32
MAX_KNOWN: Final = 256
"""Characters of a value whose digest is remembered: most values come again and again."""
MAX_VALUES: Final = 64
"""Values of one event that are counted."""
RULE: Final = "ugallu.rule"
"""A field that is no part of the event: the name of the rule that matched."""

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "gte": operator.ge,
    "gt": operator.gt,
    "lte": operator.le,
    "lt": operator.lt,
    "eq": operator.eq,
    "neq": operator.ne,
}
_SIGNS: Final = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<", "eq": "=", "neq": "!="}
_COUNTED: Final = {"event_count": "matches", "value_count": "different values of {}", "temporal": "of the rules"}
_LATER: Final = frozenset({"value_sum", "value_avg", "value_percentile", "value_median"})

T = TypeVar("T")
Read = Callable[[RecordView, str], tuple[str, ...]]
"""The texts of a field, given the event and the name of the rule that matched."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A correlation, ready to be linked with the rules that it refers to."""

    references: tuple[str, ...]
    """What it calls the rules: by id, by name, by the name of their SigmaRule, or with `*`."""
    group_by: tuple[str, ...]
    groups: tuple[Read, ...]
    """For each reference what reads the group of its matches: a text for each field.

    Nothing where the event lacks one of them, so that it belongs to no group.
    """
    tags: tuple["Tags", ...]
    """For each reference what tells its matches apart in the window: values that are counted, else the rule."""
    window: Window
    span: float
    timespan: str
    cut: bool
    """Whether the timespan is longer than any window."""
    generate: bool
    """Whether the rules report their own matches too."""
    says: str
    """The condition as a sentence."""
    fingerprint: str
    """Two versions of a correlation that have this in common have their windows in common."""


Tags = Callable[[RecordView, str], Sequence[int]]


def _group(readers: Sequence[Read]) -> Read:
    if len(readers) == 1:
        return readers[0]

    def several(view: RecordView, rule: str) -> tuple[str, ...]:
        found: list[str] = []
        for read in readers:
            text = read(view, rule)
            if not text:
                return ()
            found += text
        return tuple(found)

    return several


def _tags(readers: Sequence[Read], reference: int) -> Tags:
    if not readers:
        tag = (reference,)
        return lambda _view, _rule: tag
    if len(readers) == 1:
        read = readers[0]

        def of_one(view: RecordView, rule: str) -> Sequence[int]:
            texts = read(view, rule)
            return (_digest(texts[0]),) if len(texts) == 1 else [_digest(text) for text in texts[:MAX_VALUES]]

        return of_one

    def of_several(view: RecordView, rule: str) -> Sequence[int]:
        columns = [read(view, rule)[:MAX_VALUES] for read in readers]
        rows = itertools.islice(itertools.product(*columns), MAX_VALUES)
        return [_digest(msgspec.json.encode(each).decode()) for each in rows]

    return of_several


def plan_of(document: upstream.Correlation, *, where: str) -> Plan:
    """Return the plan of a correlation. Raises `RuleError`; with reason Unsupported for what is not served."""
    here = f"{where}: correlation"
    if document.type in _LATER:
        raise RuleError(
            Reason.UNSUPPORTED,
            f"a correlation of the type {document.type} is not served yet",
            where=f"{here}.type",
            fix="event_count, value_count, temporal and temporal_ordered are; load its rules by themselves",
        )
    references = tuple(dict.fromkeys(document.rules)) if document.type != "temporal_ordered" else document.rules
    names = tuple(dict.fromkeys(references))
    if not names:
        raise RuleError(Reason.COMPILE_ERROR, "no rules", where=f"{here}.rules", fix="name the rules to correlate")
    for alias, mapping in document.aliases.items():
        for name in mapping:
            if name not in names:
                what = f"the alias {shown(alias)} is for {shown(name)}, which is none of the rules"
                raise RuleError(Reason.COMPILE_ERROR, what, where=f"{here}.aliases", fix=f"one of {', '.join(names)}")
    span = float(min(document.seconds, MAX_SPAN))
    counted = document.fields if document.type == "value_count" else ()

    def readers(fields: Iterable[str], name: str, at: str, *, joined: bool = False) -> list[Read]:
        return [_reader(document.aliases, field, name, f"{here}.{at}", joined=joined) for field in fields]

    return Plan(
        references=names,
        group_by=document.group_by,
        groups=tuple(_group(readers(document.group_by, name, "group-by", joined=True)) for name in names),
        tags=tuple(_tags(readers(counted, name, "condition.field"), place) for place, name in enumerate(names)),
        window=_window(document, references, names, span, here),
        span=span,
        timespan=document.timespan,
        cut=document.seconds > MAX_SPAN,
        generate=document.generate,
        says=_sentence(document, references),
        fingerprint=_fingerprint(document),
    )


def _fingerprint(document: upstream.Correlation) -> str:
    aliases = sorted((alias, sorted(fields.items())) for alias, fields in document.aliases.items())
    shape = (document.type, document.rules, document.group_by, document.seconds, aliases)
    asked = (*shape, document.op, document.count, document.fields, repr(document.condition))
    return hashlib.blake2b(msgspec.json.encode(asked), digest_size=8).hexdigest()


def _digest(text: str) -> int:
    return _known_digest(text) if len(text) <= MAX_KNOWN else _known_digest.__wrapped__(text)


@lru_cache(maxsize=4096)
def _known_digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


# Fields


def _reader(aliases: Mapping[str, Mapping[str, str]], name: str, rule: str, where: str, *, joined: bool) -> Read:
    """Return what reads a field; `joined`: the texts of a list in one."""
    field = aliases[name].get(rule, "") if name in aliases else name
    if not field:
        # The alias says nothing of this rule, whose matches belong to no group then.
        return lambda _view, _rule: ()
    if field == RULE:
        return lambda _view, rule: (rule,)
    found = field_named(field)
    if found is None:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{shown(field)} is no field of an audit event",
            where=where,
            fix="as in user.username, objectRef.namespace, sourceIPs, annotations.KEY; or an alias",
        )
    return _texts(found, joined=joined)


def _texts(field: Field, *, joined: bool) -> Read:
    read = field.read
    if field.shape is Shape.TEXT:

        def text(view: RecordView, _rule: str) -> tuple[str, ...]:
            value: str = read(view)
            return (value,) if value else ()

        return text

    def texts(view: RecordView, _rule: str) -> tuple[str, ...]:
        found = tuple(text for value in read(view) if (text := text_of(value)))
        return (",".join(found),) if joined and len(found) > 1 else found

    return texts


# Windows


def _window(
    document: upstream.Correlation, references: Sequence[str], names: Sequence[str], span: float, here: str
) -> Window:
    if document.condition is not None:
        return _extended(document, document.condition, names, span, here)
    wanted = _wanted(document, here)
    holds = _OPERATORS[document.op]
    if document.type == "event_count":
        return Counting(span, holds, wanted, least={"gte": wanted, "gt": wanted + 1, "eq": wanted}.get(document.op, 1))
    if document.type in ("value_count", "temporal"):
        monotone = document.op in ("gte", "gt")
        return Distinct(
            span,
            lambda seen: holds(len(seen), wanted),
            least=wanted if monotone else 1,
            most=max(wanted, len(names)) + 2,
            grows=monotone,
        )
    if document.op != "gte" or wanted > len(references):
        raise RuleError(
            Reason.UNSUPPORTED,
            f"a condition {document.op}: {wanted} on {len(references)} ordered rules",
            where=f"{here}.condition",
            fix=f"gte and at most {len(references)}, or an extended condition",
        )
    tags = [names.index(name) for name in references]
    return Ordered(span, _bounded([Chain(steps) for steps in itertools.combinations(tags, wanted)], here))


def _wanted(document: upstream.Correlation, here: str) -> int:
    wanted = document.count
    if wanted != int(wanted) or wanted > MAX_COUNT:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{document.op}: {wanted}",
            where=f"{here}.condition",
            fix=f"a whole number up to {MAX_COUNT}",
        )
    # A window is asked when a match comes, so it holds at least one.
    least = {"lt": 2, "lte": 1, "eq": 1}.get(document.op)
    if (least is not None and wanted < least) or wanted < 0:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{document.op}: {int(wanted)} can never hold: a window is asked when a match comes, and holds that one",
            where=f"{here}.condition",
            fix="what does not happen is no event; ask for what does",
        )
    return int(wanted)


def _extended(
    document: upstream.Correlation, condition: upstream.Links, names: Sequence[str], span: float, here: str
) -> Window:
    """Return the window of a condition in words; each way to meet it needs some rule to match."""
    ways = _ways(condition, names, negated=False, here=here)
    ways = [(wanted, absent) for wanted, absent in ways if not wanted & absent]
    if any(not wanted for wanted, _ in ways) or not ways:
        raise RuleError(
            Reason.COMPILE_ERROR,
            "the condition holds without any match" if ways else "the condition contradicts itself",
            where=f"{here}.condition",
            fix="name a rule that must match",
        )
    if document.type == "temporal_ordered":
        return Ordered(span, [Chain(tuple(sorted(wanted)), absent) for wanted, absent in ways])

    def holds(seen: Collection[tuple[int]]) -> bool:
        found = {tag for (tag,) in seen}
        return any(wanted <= found and not absent & found for wanted, absent in ways)

    return Distinct(span, holds, least=min(len(wanted) for wanted, _ in ways), most=len(names))


Way = tuple[frozenset[int], frozenset[int]]
"""Rules that must match, and rules that may not."""


def _ways(links: upstream.Links, names: Sequence[str], *, negated: bool, here: str) -> list[Way]:
    match links:
        case upstream.Rule(name):
            tag = frozenset({names.index(name)})
            return [(frozenset(), tag) if negated else (tag, frozenset())]
        case upstream.Without(part):
            return _ways(part, names, negated=not negated, here=here)
        case upstream.Every(parts) | upstream.Some(parts):
            each = [_ways(part, names, negated=negated, here=here) for part in parts]
            if isinstance(links, upstream.Some) != negated:
                return _bounded([way for ways in each for way in ways], here)
            joined: list[Way] = [(frozenset(), frozenset())]
            for ways in each:
                joined = _bounded([(a | c, b | d) for a, b in joined for c, d in ways], here)
            return joined


def _bounded(ways: list[T], here: str) -> list[T]:
    ways = list(dict.fromkeys(ways))
    if len(ways) > MAX_CHAINS:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{len(ways)} ways to meet the condition",
            where=f"{here}.condition",
            fix=f"at most {MAX_CHAINS}: split the correlation",
        )
    return ways


# Words


def _sentence(document: upstream.Correlation, references: Sequence[str]) -> str:
    within = f"within {document.timespan}"
    if document.group_by:
        within += f" with the same {', '.join(document.group_by)}"
    if document.condition is not None:
        order = "in this order " if document.type == "temporal_ordered" else ""
        return f"matches {order}{within} of {_words(document.condition)}"
    count = int(document.count)
    if document.type == "temporal_ordered":
        many = "" if count == len(references) else f"{count} of "
        return f"matches one after the other {within} of {many}{', then '.join(references)}"
    what = _COUNTED[document.type].format(", ".join(document.fields))
    return f"{_SIGNS[document.op]} {count} {what} {within}, over {', '.join(references)}"


def _words(links: upstream.Links) -> str:
    match links:
        case upstream.Rule(name):
            return name
        case upstream.Without(part):
            return f"not {_words(part)}"
        case upstream.Every(parts):
            return f"({' and '.join(map(_words, parts))})"
        case upstream.Some(parts):
            return f"({' or '.join(map(_words, parts))})"
