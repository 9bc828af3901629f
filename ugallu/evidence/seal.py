"""Which stage of sealing comes next, and under which keys its outputs are kept. Pure.

Each stage is persisted before the next begins, so a crash resumes at the missing one, and no stage with an effect
outside (a signature, a log entry) happens twice with different content.
"""

import datetime as dt
import enum
import re

from ugallu.api.bundle import AttestationBundleStatus, BundlePhase

RETENTION = dt.timedelta(days=365)
"""How long evidence is kept; more than any event's own life and its grace together."""
MAX_FAILURES = 16
"""Failures kept in status: the first one, which often explains the rest, and the newest."""
PATIENCE = 8
"""Failed tries after which a bundle is called Failed; it is tried again all the same."""


LONGEST_DELAY = 300.0
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class Stage(enum.StrEnum):
    """The stages, in order."""

    STATEMENT = "statement"
    SIGN = "sign"
    LOG = "log"
    ARCHIVE = "archive"
    DONE = "done"


def next_stage(status: AttestationBundleStatus) -> Stage:
    """Return the stage that this status still lacks; what is recorded counts, not the phase alone."""
    if status.phase is BundlePhase.SEALED:
        return Stage.DONE
    if not status.statement_digest:
        return Stage.STATEMENT
    if status.signature is None or status.signed_at is None:
        return Stage.SIGN
    if status.rekor_entry is None:
        return Stage.LOG
    return Stage.ARCHIVE


def shared_name(statement_digest: str) -> str:
    """Return the name in the store of what many events share, for `Keys`: found by the digest that each of them has."""
    return f"shared-{statement_digest.removeprefix('sha256:')[:32]}"


class Keys:
    """Object keys of one bundle in the evidence store, by its uid, or of many in one (`shared_name`)."""

    def __init__(self, uid: str) -> None:
        self.draft = f"staging/{uid}.json"
        """What the stages have made so far; it may go once the bundle is sealed."""
        self._uid = uid

    def bundle(self, cluster_id: str, at: dt.datetime, role: str = "") -> str:
        """The Sigstore bundle; `at` is the fixed time of attestation, its month in UTC partitions the store.

        `role` names the leg where there are several.
        """
        leg = f".{role}" if role else ""
        return f"{_month(cluster_id, at)}/{self._uid}{leg}.sigstore.json"

    def subject(self, cluster_id: str, at: dt.datetime) -> str:
        """The canonical bytes that are attested."""
        return f"{_month(cluster_id, at)}/{self._uid}.spec.json"

    def subjects(self, cluster_id: str, at: dt.datetime) -> str:
        """The canonical bytes of all that one statement attests, a line for each."""
        return f"{_month(cluster_id, at)}/{self._uid}.spec.jsonl"

    def envelope_line(self, cluster_id: str, at: dt.datetime) -> str:
        """The bare DSSE envelope, for readers that know no bundles."""
        return f"{_month(cluster_id, at)}/{self._uid}.intoto.jsonl"


def place_of(cluster_id: str) -> str:
    """Return the folder of a cluster in the store; an id that fits into no key, as an ARN, is `unknown` there.

    Whose evidence it is stands in the attested bytes; the folder only partitions.
    """
    return cluster_id if _SAFE.fullmatch(cluster_id) else "unknown"


def _month(cluster_id: str, at: dt.datetime) -> str:
    utc = at.astimezone(dt.UTC)
    return f"{place_of(cluster_id)}/{utc:%Y}/{utc:%m}"


def retry_delay(attempts: int) -> float:
    """Return the seconds to wait after so many failed tries in a row: 1, 2, 4... up to five minutes."""
    return min(LONGEST_DELAY, 2.0 ** min(attempts - 1, 16))
