"""What `ugallu rules` finds out about rules in files, as a table or as JSON."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ugallu.sdk import PermanentError
from ugallu_audit_detection.arming import Armed, arm, outcomes
from ugallu_audit_detection.correlation.correlator import Correlator
from ugallu_audit_detection.correlation.links import MISSING
from ugallu_audit_detection.correlation.trial import asked_of
from ugallu_audit_detection.files import RuleInFile, load
from ugallu_audit_detection.limiter import DEFAULT
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.sigma.names import kind_of
from ugallu_audit_detection.signals import technique_of

_STAGES = ["ResponseStarted", "ResponseComplete", "Panic"]
"""What a rule is asked about that names no stage."""

_NAMELESS = {"groups": "core", "subresources": "none"}
"""How the empty text is read where it may stand."""

PASSED, FAILED, UNREADABLE = 0, 1, 2


@dataclass(slots=True)
class Report:
    """What a command says: `data` for machines, `lines` for people, `errors` for stderr, and the exit status."""

    data: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: int = PASSED


def show(report: Report, *, as_json: bool) -> int:
    """Write the report and return its exit status."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report.data), indent=2).decode() + "\n")
    elif report.lines:
        sys.stdout.write("\n".join(report.lines) + "\n")
    for error in report.errors:
        sys.stderr.write(f"ugallu: {error}\n")
    return report.status


def run_tests(paths: Sequence[Path]) -> Report:
    """Compile every rule below these paths and run its tests."""
    loaded = load(paths)
    compiled = [(rule, *_armed(rule)) for rule in loaded.rules]
    correlator = _linked(armed for _, armed, _ in compiled if armed is not None)
    rows: list[tuple[str, str, str, str]] = []
    found: list[dict[str, Any]] = []
    failed = tests = bare = 0
    for rule, armed, error in compiled:
        name = rule.rule.metadata.name
        entry: dict[str, Any] = {"rule": name, "place": rule.place(), "error": str(error) if error else "", "tests": []}
        found.append(entry)
        if armed is None:
            failed += 1
            rows.append((name, "", "", f"FAIL  {error}"))
            continue
        trouble = correlator.links.troubles.get(name)
        if trouble is not None:
            failed += 1
            more = "; name the files of its rules too" if trouble.reason == MISSING else ""
            entry["error"] = f"{rule.place('spec.sigma')}: {trouble.message}{more}"
            rows.append((name, "", "", f"FAIL  {entry['error']}"))
            continue
        if blind := _blind(armed):
            failed += 1
            entry["error"] = f"{rule.place()}: {blind}"
            rows.append((name, "", "", f"FAIL  {entry['error']}"))
        elif armed.compiled.unknown_fields:
            rows.append((name, "", "", f"note  no audit event has: {', '.join(armed.compiled.unknown_fields)}"))
        if not armed.spec.tests:
            bare += 1
            rows.append((name, "(no tests)", "", "-"))
        for index, (test, wrong) in enumerate(outcomes(armed, asked_of(armed, correlator))):
            tests += 1
            failed += bool(wrong)
            place = rule.place(f"spec.tests[{index}]")
            rows.append((name, test.name, test.expect, f"FAIL  {place}: {wrong}" if wrong else "ok"))
            entry["tests"].append({"name": test.name, "expect": test.expect, "passed": not wrong, "error": wrong})
    errors = [str(error) for error in loaded.errors]
    total = f"{_many(len(loaded.rules), 'rule')}, {_many(tests, 'test')}: "
    total += f"{failed} failed" if failed else "all pass" if tests else "nothing to run"
    total += f"; {_many(bare, 'rule')} without a test" if bare else ""
    return Report(
        data={"rules": found, "failed": failed, "tests": tests, "errors": errors},
        lines=[*_table(("RULE", "TEST", "EXPECT", "RESULT"), rows), "", total] if rows else [],
        errors=errors,
        status=UNREADABLE if errors else FAILED if failed else PASSED,
    )


def list_rules(paths: Sequence[Path]) -> Report:
    """List the rules below these paths."""
    loaded = load(paths)
    rows: list[tuple[str, ...]] = []
    found: list[dict[str, Any]] = []
    for rule in loaded.rules:
        spec = rule.rule.spec
        armed, error = _armed(rule)
        kind = kind_of(spec.sigma)
        level = armed.compiled.needs.level if armed and kind == "rule" else "-"
        state = "error" if error else "off" if not spec.enabled else "on"
        technique = technique_of(spec.tags)
        emit, name, tests = spec.emit, rule.rule.metadata.name, len(spec.tests)
        said = ("(a filter)", "-") if kind == "filter" else (emit.security_event_type, emit.severity)
        rows.append((name, *said, state, level, str(tests), technique))
        found.append(
            {
                "rule": name,
                "kind": kind,
                "place": rule.place(),
                "type": emit.security_event_type,
                "class": emit.class_,
                "severity": emit.severity,
                "enabled": spec.enabled,
                "level": level,
                "tests": tests,
                "techniques": technique.split(",") if technique else [],
                "error": str(error) if error else "",
            }
        )
    errors = [str(error) for error in loaded.errors]
    head = ("RULE", "TYPE", "SEVERITY", "STATE", "LEVEL", "TESTS", "ATT&CK")
    return Report(
        data={"rules": found, "errors": errors},
        lines=_table(head, rows) if rows else [],
        errors=errors,
        status=UNREADABLE if errors else PASSED,
    )


def explain_rules(asked: tuple[str, Sequence[Path]]) -> Report:
    """Say what a rule, named or all those in a file, needs to be able to fire."""
    wanted, paths = asked
    file = Path(wanted)
    whole = not paths and file.exists()
    if not whole and not paths:
        raise PermanentError(f"no file is called {wanted}", where="rules explain", fix="for a name, add --rules PATH")
    loaded = load([file] if whole else paths)
    chosen = [rule for rule in loaded.rules if whole or rule.rule.metadata.name == wanted]
    if not chosen and not loaded.errors:
        near = _near(wanted, [rule.rule.metadata.name for rule in loaded.rules])
        raise PermanentError(f"no rule is called {wanted}", where=", ".join(map(str, paths)), fix=near)
    report = Report(data={"rules": []}, errors=[str(error) for error in loaded.errors])
    correlator = _linked(armed for rule in loaded.rules if (armed := _armed(rule)[0]) is not None)
    for rule in chosen:
        armed, error = _armed(rule)
        if armed is None:
            report.errors.append(str(error))
            report.status = FAILED
            continue
        facts = _facts(rule, armed)
        lines = _explained_links(rule, armed, facts, correlator) or _explained(rule, armed, facts)
        report.data["rules"].append(facts)
        report.lines += [*([""] if report.lines else []), *lines]
    if loaded.errors:
        report.status = UNREADABLE
    report.data["errors"] = report.errors
    return report


def _blind(armed: Armed) -> str:
    """Say why no event can match a rule on events; empty when one can."""
    rule = armed.compiled
    if not rule.never_matches or kind_of(armed.spec.sigma) != "rule":
        return ""
    if rule.unknown_fields:
        return f"no event can match, for none has: {', '.join(rule.unknown_fields)}"
    return "no event can match: conditions contradict each other, or a list of patterns is empty"


def _armed(rule: RuleInFile) -> tuple[Armed | None, RuleError | None]:
    try:
        return arm(rule.rule.metadata.name, rule.rule.spec, rule.rule.metadata.labels), None
    except RuleError as error:
        return None, rule.located(error)


def _linked(rules: Iterable[Armed]) -> Correlator:
    correlator = Correlator()
    for armed in rules:
        correlator.arm(armed)
    return correlator


def _facts(rule: RuleInFile, armed: Armed) -> dict[str, Any]:
    dispatch, needs, spec = armed.compiled.dispatch, armed.compiled.needs, armed.spec
    asked = {
        name: sorted(values)
        for name in dispatch.__struct_fields__
        if name != "stages" and (values := getattr(dispatch, name)) is not None
    }
    return {
        "rule": armed.name,
        "place": rule.place(),
        "type": armed.type.name,
        "class": spec.emit.class_,
        "severity": spec.emit.severity,
        "enabled": spec.enabled,
        "conditions": armed.compiled.explain(),
        "requests": asked,
        "level": needs.level,
        "stages": sorted(needs.stages) if needs.stages is not None else _STAGES,
        "tests": [{"name": test.name, "expect": test.expect} for test in spec.tests],
        "exceptions": [
            {"name": one.exception.name, "owner": one.exception.owner, "reason": one.exception.reason}
            for one in armed.exempt
        ],
    }


def _explained_links(rule: RuleInFile, armed: Armed, facts: dict[str, Any], correlator: Correlator) -> list[str]:
    """Explain what serves through other rules, and put it among the facts; nothing for a rule on events."""
    plan, filter_ = correlator.plan(armed.name), correlator.filter(armed.name)
    if plan is None and filter_ is None:
        return []
    trouble = correlator.links.troubles.get(armed.name)
    rules = list(correlator.links.bases.get(armed.name, ()))
    facts.update(
        {"requests": {}, "level": "-", "stages": [], "rules": rules, "trouble": trouble.message if trouble else ""}
    )
    if plan is not None:
        facts["conditions"] = [plan.says]
        lines = [*_head(rule, armed), "  fires when", f"    {plan.says}", f"  counts    {_names(rules)}"]
        lines.append("  repeats   of a group are silent for one timespan, and no match counts twice")
        if not plan.generate:
            lines.append("  silences  the rules that it counts, which report nothing themselves (generate: false)")
        if plan.cut:
            lines.append("  window    the last 24 hours")
        lines += _tail(armed, facts)
    else:
        facts["conditions"] = filter_.says if filter_ is not None else []
        everything = "" if filter_ is None or filter_.references is not None else ", which is all that are not critical"
        lines = [
            f"{armed.name}  ({rule.place()})",
            "  hides matches where",
            *(f"    {line}" for line in facts["conditions"]),
        ]
        lines.append(f"  of        {_names(rules)}{everything}")
    if trouble is not None:
        lines.append(f"  trouble   {trouble.message}")
    return lines


def _names(rules: Sequence[str]) -> str:
    return ", ".join(rules) or "no rule"


def _head(rule: RuleInFile, armed: Armed) -> list[str]:
    spec = armed.spec
    said = filter(None, (armed.type.name, spec.emit.severity, spec.emit.class_, technique_of(spec.tags)))
    lines = [f"{armed.name}  ({rule.place()})", f"  emits     {', '.join(said)}"]
    if spec.description:
        lines.append(f"  says      {' '.join(spec.description.split())}")
    if not spec.enabled:
        lines.append("  is off    enabled: false")
    return lines


def _explained(rule: RuleInFile, armed: Armed, facts: dict[str, Any]) -> list[str]:
    lines = [*_head(rule, armed), "  fires when", *(f"    {line}" for line in facts["conditions"])]
    asked: dict[str, list[str]] = facts["requests"]
    requests = "; ".join(
        f"{name} {', '.join(value or _NAMELESS.get(name, 'none') for value in values)}"
        for name, values in asked.items()
    )
    lines.append(f"  asked     only for {requests}" if requests else "  asked     for every event")
    lines.append(f"  level     {facts['level']} or more for these requests in the audit policy")
    lines.append(f"  stages    {', '.join(facts['stages'])}; one request is one event")
    return [*lines, *_tail(armed, facts)]


def _tail(armed: Armed, facts: dict[str, Any]) -> list[str]:
    spec = armed.spec
    limit = spec.rate_limit or DEFAULT
    lines = [f"  limit     {limit.burst} at once, then {limit.sustained_per_sec} a second"]
    if armed.window:
        keys = ", ".join(spec.suppress.dedupe_by) if spec.suppress and spec.suppress.dedupe_by else "actor and object"
        lines.append(f"  repeats   of the same {keys} are silent for {spec.suppress.window if spec.suppress else ''}")
    for one in armed.exempt:
        until = f"until {one.exception.expires:%Y-%m-%dT%H:%M:%SZ}" if one.exception.expires else "for ever"
        lines.append(f"  except    {one.exception.name}: {one.exception.reason} ({one.exception.owner}, {until})")
    return [*lines, *(f"  example   {test['expect']:<4}  {test['name']}" for test in facts["tests"])]


def _near(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {len(known)}: see `ugallu rules list`"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [head, *rows]
    widths = [min(60, max(len(row[column]) for row in table)) for column in range(len(head) - 1)]
    lines = []
    for *cells, last in table:
        padded = (text.ljust(width) for text, width in zip(cells, widths, strict=True))
        lines.append("  ".join([*padded, last]).rstrip())
    return lines
