"""The tests of a correlation: events for the rules that it counts, and whether they make it speak."""

from collections.abc import Sequence

from ugallu.sdk import AuditRecord
from ugallu_audit_detection.arming import Armed, Says, outcomes


def failure(armed: Armed, rules: Sequence[Armed]) -> str:
    """Run the tests of a correlation over these rules; return the first that fails and how, empty when all pass."""
    return next((wrong for _, wrong in outcomes(armed, speaks(armed, rules)) if wrong), "")


def speaks(armed: Armed, rules: Sequence[Armed]) -> Says:
    """Return what a test asks: whether the correlation speaks by the end of these events."""

    def says(record: AuditRecord, before: Sequence[AuditRecord]) -> bool:
        from ugallu_audit_detection.engine import Engine

        engine = Engine(tried=True)
        for rule in (*rules, armed):
            engine.arm(rule)
        return any(finding.signals.get("rule") == armed.name for _, finding in engine.inspect_batch([*before, record]))

    return says
