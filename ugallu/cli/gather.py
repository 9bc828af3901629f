"""Gathers a report's story from a finished run: the events, their proof checked again, the books."""

from collections.abc import Sequence
from pathlib import Path

from ugallu import __version__
from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.sigma import SigmaRule
from ugallu.cli import books
from ugallu.cli.evidence import Archive
from ugallu.cli.report import Check, Entry, Story
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, list_all
from ugallu.errors import UgalluError
from ugallu.evidence.verify import Outcome as Came
from ugallu.supervisor.supervisor import Outcome


async def story(
    cluster: Cluster, state: Path, clock: Clock, played: Outcome, *, title: str, inputs: Sequence[str], sealing: bool
) -> Story:
    """Return what happened, every sealed event verified again from the bytes in the archive."""
    events, _ = await list_all(cluster, SecurityEvent)
    bundles, _ = await list_all(cluster, AttestationBundle)
    rules, _ = await list_all(cluster, SigmaRule)
    by_event = {bundle.spec.attested_for.uid: bundle for bundle in bundles}
    by_name = {rule.metadata.name: rule.spec for rule in rules}
    parents = {event.metadata.name: event for event in events}
    archive = Archive(state) if sealing and bundles else None
    entries = []
    for event in events:
        bundle = by_event.get(event.metadata.uid)
        # An event about events is of the rule that made the first of them.
        origin = next((parents[ref.name] for ref in event.spec.parents if ref.name in parents), event)
        rule = by_name.get(event.spec.signals.get("rule") or origin.spec.signals.get("rule", ""))
        checks = await checked(archive, event, bundle) if archive and bundle else ()
        about = _summary(event) or (rule.description if rule else "")
        entries.append(Entry(event, bundle, checks, about, rule.tags if rule else (), origin))
    return Story(
        title=title,
        inputs=inputs,
        made_at=clock.now(),
        version=__version__,
        entries=entries,
        ledger=books.flat(played),
        equations=books.equations(played, sealing=sealing),
        rules=len(rules),
        cluster=events[0].spec.cluster_identity.cluster_name if events else "",
    )


async def checked(archive: Archive, event: SecurityEvent, bundle: AttestationBundle) -> Sequence[Check]:
    """Verify one event's evidence from the archive; what cannot be read is a check that does not hold."""
    try:
        report = archive.check(await archive.kit(event, bundle))
    except UgalluError as error:
        return (Check("archive", ok=False, detail=str(error)),)
    return tuple(Check(check.name, check.outcome is Came.PASSED, check.detail) for check in report.checks)


def _summary(event: SecurityEvent) -> str:
    """Say what an event about events is: the one that closes a window of equal findings."""
    count = event.spec.signals.get("occurrences", "")
    return f"Seen {count} times in all: closes the window of equal findings." if count else ""
