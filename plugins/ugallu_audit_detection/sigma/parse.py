"""The only door to pySigma: upstream YAML becomes documents of our own, and no type of pySigma leaves this module.

pySigma parses; it does not download, validate or convert here. What it would take forever for is refused before it sees
it: rules come from people, but also from whoever may edit a SigmaRule.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.pattern import Wild, any_regex

MAX_RULE = 64 << 10
MAX_STREAM = 16 << 20
MAX_CONDITION = 4096
MAX_NESTING = 12
"""Open brackets in a condition: pySigma's parser takes exponential time in them."""
MAX_LINKED = 64
"""Rules of one correlation, and aliases."""
MAX_GROUP_BY = 16
MAX_EXPANSION = 200_000
"""Conditions times values that a rule may unfold into while it is parsed."""


class Text(msgspec.Struct, frozen=True):
    """Literal text and wildcards."""

    parts: tuple[str | Wild, ...]
    cased: bool = False


class Number(msgspec.Struct, frozen=True):
    """A number, compared by `op` (`eq`, `gt`, `gte`, `lt`, `lte`), perhaps with one part of a time."""

    number: float | int
    op: str = "eq"
    time_part: str = ""


class Truth(msgspec.Struct, frozen=True):
    """`true` or `false`."""

    value: bool


class Null(msgspec.Struct, frozen=True):
    """No value."""


class Exists(msgspec.Struct, frozen=True):
    """Whether there is a field."""

    wanted: bool


class Regex(msgspec.Struct, frozen=True):
    """An expression, with flags of `i`, `m` and `s`."""

    source: str
    flags: str = ""


class Cidr(msgspec.Struct, frozen=True):
    """A network."""

    network: str


class FieldRef(msgspec.Struct, frozen=True):
    """Another field's value: `equals`, `startswith`, `endswith` or `contains`."""

    field: str
    how: str = "equals"


class OneOf(msgspec.Struct, frozen=True):
    """Any of several values, whatever links the list that they stand in."""

    values: "tuple[Value, ...]"


Value = Text | Number | Truth | Null | Exists | Regex | Cidr | FieldRef | OneOf


class Item(msgspec.Struct, frozen=True):
    """A field has a value; without a field, some text of the event does."""

    field: str
    value: Value


class And(msgspec.Struct, frozen=True):
    """All of them."""

    parts: "tuple[Node, ...]"


class Or(msgspec.Struct, frozen=True):
    """Any of them."""

    parts: "tuple[Node, ...]"


class Negation(msgspec.Struct, frozen=True):
    """Not this."""

    part: "Node"


Node = Item | And | Or | Negation


class Header(msgspec.Struct, frozen=True):
    """What every Sigma document says about itself."""

    title: str
    id: str = ""
    name: str = ""
    description: str = ""
    level: str = ""
    status: str = ""
    tags: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    author: str = ""
    license: str = ""
    custom: dict[str, Any] = {}
    """`custom.ugallu` of the document, as written."""


class LogSource(msgspec.Struct, frozen=True):
    """Which log a rule is for."""

    product: str = ""
    service: str = ""
    category: str = ""


class Detection(msgspec.Struct, frozen=True):
    """A detection rule; any of its conditions. Filters parsed along with it are already part of them."""

    header: Header
    logsource: LogSource
    conditions: tuple[Node, ...]


class Rule(msgspec.Struct, frozen=True):
    """In the extended condition of a correlation: matches of this rule."""

    name: str


class Every(msgspec.Struct, frozen=True):
    """All of them."""

    parts: "tuple[Links, ...]"


class Some(msgspec.Struct, frozen=True):
    """Any of them."""

    parts: "tuple[Links, ...]"


class Without(msgspec.Struct, frozen=True):
    """Not this."""

    part: "Links"


Links = Rule | Every | Some | Without


class Correlation(msgspec.Struct, frozen=True):
    """A correlation of other rules, which it names by `name`, `id` or the name of their SigmaRule."""

    header: Header
    type: str
    rules: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    timespan: str = ""
    seconds: int = 0
    op: str = "gte"
    count: float = 1
    fields: tuple[str, ...] = ()
    """Whose values are counted."""
    condition: Links | None = None
    """The extended condition, in place of `op` and `count`."""
    aliases: dict[str, dict[str, str]] = {}
    """From an alias to the field that it stands for in each rule."""
    generate: bool = False
    """Whether the rules report their own matches too."""


class Filter(msgspec.Struct, frozen=True):
    """What takes matches away from other rules: those for which the condition does not hold."""

    header: Header
    logsource: LogSource
    condition: Node
    rules: tuple[str, ...] | None = None
    """Names of rules; None is all."""


Document = Detection | Correlation | Filter


def documents(text: str, *, where: str) -> list[dict[str, Any]]:
    """Load a stream of YAML documents that are maps, empty ones left out. Raises `RuleError`."""
    import yaml

    if len(text) > MAX_STREAM:
        raise RuleError(Reason.COMPILE_ERROR, f"{len(text)} characters", where=where, fix=f"at most {MAX_STREAM}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loaded = [document for document in yaml.load_all(text, Loader=loader) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"no YAML: {' '.join(str(error).split())}"[:300],
            where=where,
            fix="paste the rule as it is upstream",
        ) from error
    for document in loaded:
        if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
            raise RuleError(
                Reason.COMPILE_ERROR, f"{shown(document)} is no Sigma document", where=where, fix="a map is expected"
            )
    return loaded


def parse(loaded: Sequence[dict[str, Any]], *, where: str, placeholders: Mapping[str, Sequence[str]]) -> list[Document]:
    """Parse documents that belong together: rules, correlations, and the filters that apply to the rules.

    Filters without a rule to apply to come as documents of their own. Raises `RuleError`. `placeholders` are the
    values for `|expand`.
    """
    from sigma.collection import SigmaCollection
    from sigma.correlations import SigmaCorrelationRule
    from sigma.exceptions import SigmaError

    for document in loaded:
        _check_size(document, where)
    try:
        if loaded and all("filter" in document for document in loaded):
            return [_filter(document, where, placeholders) for document in loaded]
        collection = SigmaCollection.from_dicts(list(loaded), resolve_references=False)
        parsed: list[Document] = []
        for rule in collection.rules:
            if isinstance(rule, SigmaCorrelationRule):
                parsed.append(_correlation(rule, where))
            else:
                parsed.append(_detection(rule, where, placeholders))
    except SigmaError as error:
        raise _refused(error, where) from error
    except RecursionError as error:
        raise RuleError(Reason.COMPILE_ERROR, "nested too deeply", where=where, fix="flatten the condition") from error
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        # pySigma meets some malformed documents with whatever its code runs into.
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"no valid Sigma rule: {type(error).__name__}: {error}"[:300],
            where=where,
            fix="compare with the Sigma specification",
        ) from error
    return parsed


def _check_size(document: dict[str, Any], where: str) -> None:
    _check_correlation(document.get("correlation"), where)
    detection = document.get("detection", document.get("filter"))
    if not isinstance(detection, dict):
        return
    values = 0
    pending: list[tuple[Any, int]] = [(value, 1) for key, value in detection.items() if key != "condition"]
    while pending:
        value, depth = pending.pop()
        values += 1
        if depth > 32 or values > MAX_EXPANSION:
            raise RuleError(Reason.COMPILE_ERROR, "the detection is too large", where=where, fix="split the rule")
        if isinstance(value, dict):
            pending += [(item, depth + 1) for item in value.values()]
            _check_regexes(value, where)
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]
    conditions = detection.get("condition")
    words = 0
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        if not isinstance(condition, str):
            continue
        _check_condition(condition, where)
        words += len(re.findall(r"[\w*-]+", condition))
    if words * values > MAX_EXPANSION:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{values} values times {words} words of conditions",
            where=where,
            fix="split the rule",
        )


def _check_condition(condition: str, where: str) -> None:
    if len(condition) > MAX_CONDITION or _nesting(condition) > MAX_NESTING:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"the condition {shown(condition)} is too long or too nested",
            where=where,
            fix=f"at most {MAX_CONDITION} characters and {MAX_NESTING} brackets deep",
        )


def _check_correlation(correlation: object, where: str) -> None:
    if not isinstance(correlation, dict):
        return
    for name, most in (("rules", MAX_LINKED), ("group-by", MAX_GROUP_BY), ("aliases", MAX_LINKED)):
        value = correlation.get(name)
        if isinstance(value, list | dict) and len(value) > most:
            raise RuleError(
                Reason.COMPILE_ERROR,
                f"{len(value)} {name}",
                where=f"{where}: correlation.{name}",
                fix=f"at most {most}",
            )
    if isinstance(correlation.get("condition"), str):
        _check_condition(correlation["condition"], where)


def _check_regexes(items: dict[Any, Any], where: str) -> None:
    """Refuse what RE2 refuses before pySigma tries it, because there RE2 also writes to standard error."""
    for key, value in items.items():
        if "re" in str(key).split("|")[1:]:
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, str):
                    raise RuleError(
                        Reason.REGEX, f"{key}: {shown(source)} is no text", where=where, fix="put it into quotes"
                    )
                if "expand" not in str(key).split("|"):
                    any_regex((source,), where=f"{where}: {key}")


def _nesting(condition: str) -> int:
    depth = deepest = 0
    for char in condition:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest + len(re.findall(r"\bnot\s+not\b", condition))


def _refused(error: Exception, where: str) -> RuleError:
    from sigma.exceptions import SigmaLogsourceError, SigmaRegularExpressionError

    what = " ".join(str(error).split())[:300]
    if isinstance(error, SigmaLogsourceError):
        return RuleError(Reason.LOG_SOURCE, what, where=where, fix="product: kubernetes, service: audit")
    if isinstance(error, SigmaRegularExpressionError):
        return RuleError(
            Reason.REGEX, what, where=where, fix="RE2 has no look-around and no back-references: split the condition"
        )
    if "pipe syntax" in what:
        return RuleError(Reason.UNSUPPORTED, what, where=where, fix="write it as a Sigma correlation")
    return RuleError(Reason.COMPILE_ERROR, what, where=where, fix="compare with the Sigma specification")


def _detection(rule: Any, where: str, placeholders: Mapping[str, Sequence[str]]) -> Detection:  # noqa: ANN401
    source = rule.logsource
    conditions = []
    for condition in rule.detection.parsed_condition:
        parsed = condition.parsed
        if parsed is None:
            raise RuleError(Reason.COMPILE_ERROR, "the condition is empty", where=where, fix="name a selection")
        conditions.append(_node(parsed, where, placeholders))
    return Detection(
        _header(rule),
        LogSource(str(source.product or ""), str(source.service or ""), str(source.category or "")),
        tuple(conditions),
    )


def _header(rule: Any) -> Header:  # noqa: ANN401 - a pySigma rule
    custom = rule.custom_attributes.get("custom")
    ours = custom.get("ugallu") if isinstance(custom, dict) else None
    return Header(
        title=str(rule.title),
        id=str(rule.id or ""),
        name=str(rule.name or ""),
        description=str(rule.description or ""),
        level=rule.level.name.lower() if rule.level else "",
        status=rule.status.name.lower() if rule.status else "",
        tags=tuple(str(tag) for tag in rule.tags),
        references=tuple(str(reference) for reference in rule.references or ()),
        falsepositives=tuple(str(text) for text in rule.falsepositives or ()),
        author=str(rule.author or ""),
        license=str(rule.license or ""),
        custom={str(key): value for key, value in ours.items()} if isinstance(ours, dict) else {},
    )


def _correlation(rule: Any, where: str) -> Correlation:  # noqa: ANN401 - a pySigma correlation
    from sigma.correlations import SigmaExtendedCorrelationCondition

    condition = rule.condition
    extended = isinstance(condition, SigmaExtendedCorrelationCondition)
    named = condition.get_referenced_rules() if extended else ()
    counted = () if extended else condition.fieldref or ()
    return Correlation(
        header=_header(rule),
        type=rule.type.name.lower(),
        rules=tuple(str(each.reference) for each in rule.rules) if rule.rules else tuple(map(str, named)),
        group_by=tuple(str(field) for field in rule.group_by or ()),
        timespan=str(rule.timespan.spec),
        seconds=rule.timespan.seconds,
        op="" if extended else condition.op.name.lower(),
        count=0 if extended else condition.count,
        fields=(counted,) if isinstance(counted, str) else tuple(str(field) for field in counted),
        condition=_links(condition.parsed, where) if extended else None,
        aliases={
            str(alias.alias): {str(each.reference): str(field) for each, field in alias.mapping.items()}
            for alias in rule.aliases
        },
        generate=bool(rule.generate),
    )


def _links(parsed: Any, where: str) -> Links:  # noqa: ANN401 - a pySigma condition
    from sigma import correlations

    match parsed:
        case correlations.SigmaRuleReference():
            return Rule(str(parsed.reference))
        case correlations.CorrelationConditionAND():
            return Every(tuple(_links(part, where) for part in parsed.args))
        case correlations.CorrelationConditionOR():
            return Some(tuple(_links(part, where) for part in parsed.args))
        case correlations.CorrelationConditionNOT():
            return Without(_links(parsed.args[0], where))
        case _:
            raise RuleError(
                Reason.UNSUPPORTED, f"a condition of the kind {type(parsed).__name__}", where=where, fix="rewrite it"
            )


def _filter(document: dict[str, Any], where: str, placeholders: Mapping[str, Sequence[str]]) -> Filter:
    """Read a filter as the detection that it is, once pySigma has said that it is a filter."""
    from sigma.filters import SigmaFilter
    from sigma.rule import SigmaRule

    parsed = SigmaFilter.from_dict(document)
    rules = parsed.filter.rules
    detection = {name: value for name, value in document["filter"].items() if name != "rules"}
    plain = {name: value for name, value in document.items() if name != "filter"}
    read = _detection(SigmaRule.from_dict({**plain, "detection": detection}), where, placeholders)
    return Filter(
        read.header,
        read.logsource,
        read.conditions[0],
        None if isinstance(rules, str) else tuple(str(each.reference) for each in rules),
    )


_REFERENCES = {
    (False, False): "equals",
    (True, False): "startswith",
    (False, True): "endswith",
    (True, True): "contains",
}


def _node(parsed: Any, where: str, placeholders: Mapping[str, Sequence[str]]) -> Node:  # noqa: ANN401
    from sigma import conditions

    match parsed:
        case conditions.ConditionAND():
            return And(tuple(_node(part, where, placeholders) for part in parsed.args))
        case conditions.ConditionOR():
            return Or(tuple(_node(part, where, placeholders) for part in parsed.args))
        case conditions.ConditionNOT():
            return Negation(_node(parsed.args[0], where, placeholders))
        case conditions.ConditionFieldEqualsValueExpression(field=field, value=value):
            return Item(field, _value(value, f"{where}: {field}", placeholders))
        case conditions.ConditionValueExpression(value=value):
            return Item("", _value(value, f"{where}: keyword", placeholders))
        case _:
            raise RuleError(
                Reason.UNSUPPORTED, f"a condition of the kind {type(parsed).__name__}", where=where, fix="rewrite it"
            )


def _value(value: Any, where: str, placeholders: Mapping[str, Sequence[str]]) -> Value:  # noqa: ANN401
    from sigma import types

    match value:
        case types.SigmaString():
            return _text(value, where, placeholders)
        case types.SigmaTimestampPart():
            return Number(value.number, "eq", value.timestamp_part.name.lower())
        case types.SigmaNumber():
            return Number(value.number)
        case types.SigmaBool():
            return Truth(value.boolean)
        case types.SigmaNull():
            return Null()
        case types.SigmaExists():
            return Exists(value.exists)
        case types.SigmaRegularExpression():
            if value.contains_placeholder():
                raise RuleError(
                    Reason.UNSUPPORTED, "a placeholder inside a regular expression", where=where, fix="write it out"
                )
            names = {"IGNORECASE": "i", "MULTILINE": "m", "DOTALL": "s"}
            return Regex(str(value.regexp), "".join(sorted(names[flag.name] for flag in value.flags)))
        case types.SigmaCIDRExpression():
            return Cidr(value.cidr)
        case types.SigmaCompareExpression():
            number = value.number
            part = number.timestamp_part.name.lower() if isinstance(number, types.SigmaTimestampPart) else ""
            return Number(number.number, value.op.name.lower(), part)
        case types.SigmaFieldReference():
            ends = (bool(value.starts_with), bool(value.ends_with))
            return FieldRef(value.field, _REFERENCES[ends])
        case types.SigmaExpansion():
            return OneOf(tuple(_value(each, where, placeholders) for each in value.values))
        case _:
            raise RuleError(
                Reason.UNSUPPORTED, f"a value of the kind {type(value).__name__}", where=where, fix="rewrite it"
            )


def _text(value: Any, where: str, placeholders: Mapping[str, Sequence[str]]) -> Value:  # noqa: ANN401
    from sigma import types

    cased = isinstance(value, types.SigmaCasedString)
    if not value.contains_placeholder():
        return Text(tuple(_parts(value)), cased)
    for part in value.s:
        if isinstance(part, types.Placeholder) and part.name not in placeholders:
            raise RuleError(
                Reason.COMPILE_ERROR,
                f"no value for the placeholder %{part.name}%",
                where=where,
                fix="set it in the configuration, or write the values into the rule",
            )
    expanded = value.replace_placeholders(lambda placeholder: iter(placeholders[placeholder.name]))
    return OneOf(tuple(Text(tuple(_parts(each)), cased) for each in expanded))


def _parts(value: Any) -> Iterator[str | Wild]:  # noqa: ANN401 - a SigmaString
    from sigma import types

    literal = ""
    before: Wild | None = None
    for part in value.s:
        if isinstance(part, str):
            literal += part
            before = None
            continue
        if literal:
            yield literal
            literal = ""
        wild = Wild.ANY if part is types.SpecialChars.WILDCARD_MULTI else Wild.CHAR
        if not (wild is Wild.ANY and before is Wild.ANY):
            yield wild
        before = wild
    if literal:
        yield literal
