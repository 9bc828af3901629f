"""The tests of correlations and filters: events for the rules that they are about, and what comes of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ugallu.sdk import AuditRecord
from ugallu_audit_detection.arming import Armed, Says, outcomes
from ugallu_audit_detection.sigma.view import RecordView

if TYPE_CHECKING:
    from ugallu_audit_detection.correlation.correlator import Correlator
    from ugallu_audit_detection.filters import Filter


def failure(armed: Armed, correlator: "Correlator") -> str:
    """Run the tests of what is linked; return the first that fails and how, empty when all pass."""
    return next((wrong for _, wrong in outcomes(armed, asked_of(armed, correlator)) if wrong), "")


def asked_of(armed: Armed, correlator: "Correlator") -> Says | None:
    """Return what a test asks of a correlation or a filter; None for a rule that is asked itself."""
    filter_ = correlator.filter(armed.name)
    if filter_ is not None:
        return hides(filter_)
    if correlator.plan(armed.name) is not None:
        return speaks(armed, correlator.rules_below(armed.name))
    return None


def speaks(armed: Armed, rules: Sequence[Armed]) -> Says:
    """Whether the correlation speaks by the end of these events, as counted by these rules."""

    def says(record: AuditRecord, before: Sequence[AuditRecord]) -> bool:
        from ugallu_audit_detection.engine import Engine

        engine = Engine(tried=True)
        for rule in (*rules, armed):
            engine.arm(rule)
        return any(finding.signals.get("rule") == armed.name for _, finding in engine.inspect_batch([*before, record]))

    return says


def hides(filter_: "Filter") -> Says:
    """Whether the filter takes this event away from the rules that it is about."""
    return lambda record, _before: record.seen_at.timestamp() < filter_.until and filter_.hides(RecordView(record))
