"""Which requests come without bodies: what a rule that looks into bodies can never see."""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from ugallu.sdk import AuditObject, AuditRecord

MAX_RESOURCES: Final = 512
SPAN: Final = 3600.0
"""Seconds of event time without a single body, after which a resource counts as audited at Metadata only."""

MAX_NAME: Final = 512

BODIES: Final = frozenset({"Request", "RequestResponse"})
LEVELS: Final = frozenset({"Metadata", *BODIES})
_LEVEL: Final = attrgetter("level")
TRUNCATED: Final = b"audit.k8s.io/truncated"
WRITES: Final = frozenset({"create", "update", "patch"})

Resource = tuple[str, str]
"""API group and plural."""


class Levels:
    """For each resource, since when its writes have come without a body. Costs one look at the verb of other events."""

    def __init__(self) -> None:
        self.cut = 0
        """Events that came without the bodies that their level promises, because the API server cut them off."""
        self.seen: Counter[str] = Counter()
        """Events by level; what is no level counts as `other`."""
        self._bare: dict[Resource, tuple[AuditRecord, AuditRecord] | None] = {}

    def note(self, records: Sequence[AuditRecord]) -> None:
        """Take in a batch."""
        bare = self._bare
        for level, count in Counter(map(_LEVEL, records)).items():
            self.seen[level if level in LEVELS else "other"] += count
        for record in records:
            if (
                record.level in BODIES
                and not (record.request_object or record.response_object)
                and TRUNCATED in bytes(record.annotations)
            ):
                self.cut += 1
            if record.verb in WRITES and (ref := record.object_ref) is not None and not ref.subresource:
                resource = (ref.api_group, ref.resource)
                if record.request_object or record.response_object:
                    if bare.get(resource) is not None:
                        bare[resource] = None
                elif record.level == "Metadata":
                    since = bare.get(resource)
                    if since is not None or resource in bare or (len(bare) < MAX_RESOURCES and _real(record, ref)):
                        bare[resource] = (_mark(record) if since is None else since[0], _mark(record))

    def bodiless(self, groups: frozenset[str] | None, plurals: frozenset[str] | None) -> list[Resource]:
        """Return the resources of these groups and plurals (None: any) whose writes came bare for an hour of theirs."""
        return sorted(
            (group, plural)
            for (group, plural), span in self._bare.items()
            if span is not None
            and (groups is None or group.casefold() in groups)
            and (plurals is None or plural.casefold() in plurals)
            and (span[1].seen_at - span[0].seen_at).total_seconds() >= SPAN
        )


def _real(record: AuditRecord, ref: AuditObject) -> bool:
    """Whether there is such a resource: any client may invent names, which the API server refuses."""
    return len(ref.resource) + len(ref.api_group) <= MAX_NAME and b'"code":2' in bytes(record.response_status)


def _mark(record: AuditRecord) -> AuditRecord:
    """The record's times alone: the record itself would keep its whole line alive."""
    return AuditRecord(
        stage_timestamp=record.stage_timestamp, request_received_timestamp=record.request_received_timestamp
    )
