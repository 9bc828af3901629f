"""Import of upstream Sigma: one SigmaRule per detection rule, with what upstream says about it mapped to our fields.

The rule itself goes into `spec.sigma` unchanged, so author and licence stay with it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ugallu.sdk import EventClass, PermanentError, Severity, SigmaEmit, SigmaRateLimit, SigmaRuleSpec, decode_strict
from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.upstream import detection_expr, unsupported

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


class ImportedRule(msgspec.Struct, frozen=True):
    """A SigmaRule to be: its name, its annotations and its spec."""

    name: str
    spec: SigmaRuleSpec
    annotations: dict[str, str] = {}


class Imported(msgspec.Struct, frozen=True):
    """What a stream of Sigma documents gave. `refused` says for each document left out why."""

    rules: tuple[ImportedRule, ...] = ()
    correlations: tuple[upstream.Correlation, ...] = ()
    refused: tuple[RuleError, ...] = ()


class _Ours(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`custom.ugallu` of an upstream document."""

    type: str = ""
    class_: EventClass | None = msgspec.field(default=None, name="class")
    severity: Severity | None = None
    rate_limit: dict[str, Any] | None = None
    signals: dict[str, str] = {}


def import_sigma(text: str, *, where: str) -> list[tuple[str, SigmaRuleSpec]]:
    """Return name and spec of every detection rule in a stream of documents; filters go along with their rules.

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
    filters = [i for i, document in enumerate(loaded) if "filter" in document]
    rules: dict[str, ImportedRule] = {}
    correlations: list[upstream.Correlation] = []
    refused: list[RuleError] = []
    for i, document in enumerate(loaded):
        if i in filters:
            continue
        here = f"{where}: document {i + 1}" if len(loaded) > 1 else where
        own = [j for j in filters if _concerns(loaded[j], document)]
        try:
            parsed = upstream.parse(
                [loaded[j] for j in (i, *own)], where=here, placeholders=placeholders or _Anything()
            )
            for each in parsed:
                if isinstance(each, upstream.Correlation):
                    correlations.append(each)
                    raise unsupported(each, here)
                rule = _rule(each, "\n---\n".join(sources[j] for j in (i, *own)), here)
                if rule.name in rules:
                    raise RuleError(  # noqa: TRY301
                        Reason.COMPILE_ERROR, f"a second rule called {rule.name}", where=here, fix="give it its own id"
                    )
                rules[rule.name] = rule
        except RuleError as error:
            refused.append(error)
    return Imported(tuple(rules.values()), tuple(correlations), tuple(refused))


class _Anything(dict[str, Sequence[str]]):
    """Placeholders whose values come with the configuration, later."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Sequence[str]:
        return (f"%{name}%",)


def _sources(text: str, loaded: Sequence[dict[str, Any]]) -> list[str]:
    """Return each document as it is written, or written anew where the borders cannot be told from the text."""
    import yaml

    chunks = [
        chunk.strip("\n") + "\n" for chunk in re.split(r"^---[ \t]*(?:#.*)?$", text, flags=re.MULTILINE) if _some(chunk)
    ]
    if len(chunks) == len(loaded):
        return chunks
    return [yaml.safe_dump(document, sort_keys=False, allow_unicode=True) for document in loaded]


def _some(chunk: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in chunk.splitlines())


def _concerns(filter_document: dict[str, Any], rule: dict[str, Any]) -> bool:
    body = filter_document.get("filter")
    wanted = body.get("rules") if isinstance(body, dict) else None
    if not wanted or (isinstance(wanted, str) and wanted.lower() == "any"):
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    return any(rule.get(key) in names for key in ("id", "name", "title") if rule.get(key) is not None)


def _rule(detection: upstream.Detection, source: str, where: str) -> ImportedRule:
    header, ours = detection.header, _ours(detection.header, where)
    if len(source) > upstream.MAX_RULE:
        raise RuleError(
            Reason.COMPILE_ERROR, f"{len(source)} characters", where=where, fix=f"at most {upstream.MAX_RULE}"
        )
    detection_expr(detection, where=where)  # refuses what would not compile
    event_type = ours.type or _guessed_type(detection)
    severity = ours.severity or SEVERITIES.get(header.level, Severity.MEDIUM)
    if header.status == "experimental" and not ours.severity and severity in (Severity.HIGH, Severity.CRITICAL):
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
    return ImportedRule(_name(header, where), spec, {key: value for key, value in annotations.items() if value})


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
