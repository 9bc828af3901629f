"""Import of upstream Sigma: one SigmaRule per document, with what upstream says about it mapped to our fields.

The document itself goes into `spec.sigma` unchanged, so author and licence stay with it. Documents of one stream stay
linked by the names that they call each other by.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ugallu.sdk import EventClass, PermanentError, Severity, SigmaEmit, SigmaRateLimit, SigmaRuleSpec, decode_strict
from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.upstream import check_linked, detection_expr

SEVERITIES = {
    "informational": Severity.INFO,
    "low": Severity.LOW,
    "medium": Severity.MEDIUM,
    "high": Severity.HIGH,
    "critical": Severity.CRITICAL,
}
API_CALL = "KubernetesAPICall"
ID_ANNOTATION = "ugallu.io/sigma-id"
FALSE_POSITIVES_ANNOTATION = "ugallu.io/sigma-falsepositives"
AUTHOR_ANNOTATION = "ugallu.io/sigma-author"
LICENCE_ANNOTATION = "ugallu.io/sigma-license"
SIGMAHQ_LICENCE = "DRL-1.1"
MAX_DESCRIPTION = 1024
MAX_DEPTH = 32


class ImportedRule(msgspec.Struct, frozen=True):
    """A SigmaRule to be: its name, its annotations and its spec; `place` counts the documents before it."""

    name: str
    spec: SigmaRuleSpec
    annotations: dict[str, str] = {}
    place: int = 0


class Imported(msgspec.Struct, frozen=True):
    """What a stream of Sigma documents gave. `refused` says for each document left out why."""

    rules: tuple[ImportedRule, ...] = ()
    refused: tuple[RuleError, ...] = ()


class _Ours(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`custom.ugallu` of an upstream document."""

    type: str = ""
    class_: EventClass | None = msgspec.field(default=None, name="class")
    severity: Severity | None = None
    rate_limit: dict[str, Any] | None = None
    signals: dict[str, str] = {}


def import_sigma(text: str, *, where: str) -> list[tuple[str, SigmaRuleSpec]]:
    """Return name and spec of every rule, correlation and filter in a stream of documents.

    Raises `RuleError` for the first document that cannot be served. `read_sigma` tells them apart.
    """
    imported = read_sigma(text, where=where)
    if imported.refused:
        raise imported.refused[0]
    return [(rule.name, rule.spec) for rule in imported.rules]


def read_sigma(text: str, *, where: str, placeholders: Mapping[str, Sequence[str]] | None = None) -> Imported:
    """Import what can be served, and say about the rest why it cannot. Raises `RuleError` when there is no YAML."""
    loaded = upstream.documents(text, where=where)
    sources = _sources(text, loaded)
    rules: dict[str, ImportedRule] = {}
    types: dict[str, str] = {}
    refused: list[RuleError] = []
    for place, document in _acted(loaded, where):
        here = f"{where}: document {place + 1}" if len(loaded) > 1 else where
        source = sources[place] if document is loaded[place] else _written(document)
        try:
            (parsed,) = upstream.parse([document], where=here, placeholders=placeholders or _Anything())
            rule = _rule(parsed, source, here, place, types)
            if rule.name in rules:
                raise RuleError(  # noqa: TRY301
                    Reason.COMPILE_ERROR, f"a second rule called {rule.name}", where=here, fix="give it its own id"
                )
            rules[rule.name] = rule
            for name in (parsed.header.id, parsed.header.name):
                types.setdefault(name, rule.spec.emit.security_event_type)
        except RuleError as error:
            refused.append(error)
    return Imported(tuple(rules.values()), tuple(refused))


def _acted(loaded: Sequence[dict[str, Any]], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the documents with their places, once `action` has done what Sigma says.

    `global` is part of every rule after it up to a `reset`; `repeat` is the rule before it with changes.
    """
    template: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for place, document in enumerate(loaded):
        action = document.get("action")
        own = {key: value for key, value in document.items() if key != "action"}
        match action:
            case None if "correlation" in document or "filter" in document:
                yield place, document
            case None:
                before = _merged(document, template) if template else document
                yield place, before
            case "global":
                template = before = own
            case "reset":
                template = {}
            case "repeat":
                before = _merged(before, own)
                yield place, before
            case _:
                raise RuleError(
                    Reason.COMPILE_ERROR,
                    f"the action {shown(action)}",
                    where=f"{where}: document {place + 1}",
                    fix="global, reset and repeat are known",
                )


def _merged(below: dict[str, Any], above: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return one map of two, the second one winning; inside maps too."""
    if depth > MAX_DEPTH:
        raise RuleError(Reason.COMPILE_ERROR, "nested too deeply to be joined", fix="write the rule out")
    joined = dict(below)
    for key, value in above.items():
        old = joined.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            joined[key] = _merged(old, value, depth + 1)
        else:
            joined[key] = copy.deepcopy(value)
    return joined


class _Anything(dict[str, Sequence[str]]):
    """Placeholders whose values come with the configuration, later."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Sequence[str]:
        return (f"%{name}%",)


def _sources(text: str, loaded: Sequence[dict[str, Any]]) -> list[str]:
    """Return each document as it is written, or written anew where the borders cannot be told from the text."""
    chunks = [
        chunk.strip("\n") + "\n" for chunk in re.split(r"^---[ \t]*(?:#.*)?$", text, flags=re.MULTILINE) if _some(chunk)
    ]
    if len(chunks) == len(loaded):
        return chunks
    return [_written(document) for document in loaded]


def _written(document: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _some(chunk: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in chunk.splitlines())


def _rule(document: upstream.Document, source: str, where: str, place: int, types: Mapping[str, str]) -> ImportedRule:
    """Return the SigmaRule of a document; `types` are the event types of rules before it, by id and name."""
    header = document.header
    # A filter reports nothing: what it says of itself is checked with what it asks.
    ours = _Ours() if isinstance(document, upstream.Filter) else _ours(header, where)
    if len(source) > upstream.MAX_RULE:
        raise RuleError(
            Reason.COMPILE_ERROR, f"{len(source)} characters", where=where, fix=f"at most {upstream.MAX_RULE}"
        )
    # What would not compile is refused here.
    if isinstance(document, upstream.Detection):
        detection_expr(document, where=where)
        guessed = _guessed_type(document)
    else:
        check_linked(document, where=where)
        first = document.rules[0] if document.rules else ""
        guessed = types.get(first, API_CALL) if isinstance(document, upstream.Correlation) else API_CALL
    event_type = ours.type or guessed
    severity = ours.severity or SEVERITIES.get(header.level, Severity.MEDIUM)
    if isinstance(document, upstream.Filter):
        severity = Severity.INFO  # it reports nothing
    elif header.status == "experimental" and not ours.severity and severity in (Severity.HIGH, Severity.CRITICAL):
        severity = Severity.MEDIUM
    techniques = [
        tag.removeprefix("attack.").upper()
        for tag in header.tags
        if re.fullmatch(r"attack\.t\d{4}(\.\d{3})?", tag, re.IGNORECASE)
    ]
    signals = {"sigma.title": header.title}
    if header.id:
        signals["sigma.id"] = header.id
    if techniques:
        signals["attack.technique"] = ",".join(techniques)
    annotations = {ID_ANNOTATION: header.id, AUTHOR_ANNOTATION: header.author}
    annotations[LICENCE_ANNOTATION] = header.license or SIGMAHQ_LICENCE if header.author else header.license
    annotations[FALSE_POSITIVES_ANNOTATION] = "; ".join(header.falsepositives)
    spec = SigmaRuleSpec(
        enabled=header.status not in ("deprecated", "unsupported"),
        description=_description(header),
        emit=SigmaEmit(
            security_event_type=event_type,
            severity=severity,
            class_=ours.class_ or (EventClass.AUDIT if event_type == API_CALL else EventClass.DETECTION),
            signals={**signals, **ours.signals},
        ),
        rate_limit=_rate_limit(ours, where),
        references=header.references,
        tags=header.tags,
        sigma=source,
    )
    kept = {key: value for key, value in annotations.items() if value}
    return ImportedRule(_name(header, where), spec, kept, place)


def _ours(header: upstream.Header, where: str) -> _Ours:
    try:
        return msgspec.convert(header.custom, _Ours)
    except msgspec.ValidationError as error:
        raise RuleError(
            Reason.COMPILE_ERROR,
            str(error),
            where=f"{where}: custom.ugallu",
            fix="type, class, severity, rateLimit and signals are read",
        ) from error


def _rate_limit(ours: _Ours, where: str) -> SigmaRateLimit | None:
    if ours.rate_limit is None:
        return None
    try:
        return decode_strict(SigmaRateLimit, ours.rate_limit, where=f"{where}: custom.ugallu.rateLimit")
    except PermanentError as error:
        raise RuleError(Reason.COMPILE_ERROR, error.what, where=error.where, fix=error.fix) from error


def _name(header: upstream.Header, where: str) -> str:
    slug = header.id or re.sub(r"[^a-z0-9]+", "-", (header.name or header.title).lower()).strip("-")[:200]
    if not slug:
        raise RuleError(
            Reason.COMPILE_ERROR, f"no name in {shown(header.title)}", where=where, fix="give the rule an id"
        )
    return f"sigma-{slug}"


def _description(header: upstream.Header) -> str:
    text = f"{header.title}: {header.description}".strip().rstrip(":")
    text = " ".join(text.split())
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 1] + "…"


def _guessed_type(detection: upstream.Detection) -> str:
    """Return the event type that fits what the rule looks at; an API call where nothing tells."""
    looks: dict[str, set[str]] = {}
    for node in detection.conditions:
        for item in _positive(node):
            texts = looks.setdefault(item.field.rpartition(".")[2], set())
            if isinstance(item.value, upstream.Text):
                texts.add("".join(part for part in item.value.parts if isinstance(part, str)).lower())
            elif isinstance(item.value, upstream.Number):
                texts.add(str(item.value.number))
    if "exec" in looks.get("subresource", ()):
        return "ExecIntoPod"
    if "hostPath" in looks:
        return "HostPathMount"
    if "capabilities" in looks:
        return "CapAddDangerous"
    if set(looks) == {"code"} and looks["code"] <= {"401", "403"}:
        return "PrivilegeEscalationAttempt"
    return API_CALL


def _positive(node: upstream.Node) -> Iterator[upstream.Item]:
    if isinstance(node, upstream.Item):
        yield node
    elif isinstance(node, upstream.And | upstream.Or):
        for part in node.parts:
            yield from _positive(part)
