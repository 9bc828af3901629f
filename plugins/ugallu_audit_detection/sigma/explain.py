"""What a rule asks of an event, in sentences."""

from collections.abc import Iterator, Sequence

from ugallu_audit_detection.sigma.expr import All, Any_, Atom, Check, Const, Expr, Not


def sentences(expr: Expr, *, level: str, unknown: Sequence[str] = ()) -> list[str]:
    """Return one sentence per condition that must hold, indented below what they belong to."""
    if isinstance(expr, Const):
        lines = ["every event matches" if expr.value else "no event can match: the conditions contradict each other"]
    else:
        parts = expr.parts if isinstance(expr, All) else (expr,)
        lines = [line for part in parts for line in _lines(part, "")]
    if level != "Metadata":
        lines.append(f"needs the audit level {level} or higher, because it looks into bodies")
    lines.extend(f"the field {name} is in no audit event: conditions on it see nothing" for name in unknown)
    return lines


def _lines(expr: Expr, indent: str) -> Iterator[str]:
    match expr:
        case Atom() | Check():
            yield f"{indent}{expr}"
        case Not(part):
            yield f"{indent}not: {part}" if isinstance(part, Atom | Check) else f"{indent}not all of:"
            if not isinstance(part, Atom | Check):
                yield from _lines(part, indent + "  ")
        case All(parts) | Any_(parts):
            yield f"{indent}{'all' if isinstance(expr, All) else 'at least one'} of:"
            for part in parts:
                yield from _lines(part, indent + "  ")
        case Const(value):
            yield f"{indent}{'always' if value else 'never'}"
