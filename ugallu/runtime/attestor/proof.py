"""Whether a bundle that says Sealed is: nobody's word is taken for it, status can be written by others."""

from collections.abc import Callable

from ugallu.api.bundle import AttestationBundle
from ugallu.evidence import verify
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import EvidenceStore, IntegrityError, SucceedingStore
from ugallu.evidence.statement import concerns

Check = Callable[[bytes, bytes], verify.Report]
"""Verifies a bundle against the bytes that it is about."""


async def confirm_in(store: EvidenceStore, check: Check, bundle: AttestationBundle) -> None:
    """Read back and verify what the status names, each leg's bundle; raises `IntegrityError` where one fails."""
    status = bundle.status
    where = f"AttestationBundle/{bundle.metadata.name}"
    if status.worm_ref is None or status.subject_ref is None or status.rekor_entry is None:
        raise IntegrityError("called sealed, but the status names no evidence", where=where)
    subject = await _fetch(store, status.subject_ref.url)
    named = {status.worm_ref.url: status.worm_ref.sha256} | {leg.url: leg.sha256 for leg in status.bundles}
    for url, said in named.items():
        content = await _fetch(store, url)
        report = check(content, subject)
        if not report.ok or report.statement is None:
            raise IntegrityError(f"called sealed, but its evidence does not verify: {report.reason}", where=where)
        if not concerns(report.statement, bundle.spec.attested_for.uid, subject):
            raise IntegrityError("called sealed with the evidence of another event", where=where)
        if (said, status.subject_ref.sha256) != (digest(content), digest(subject)):
            raise IntegrityError("the archive holds other bytes than the status names", where=where)


async def _fetch(store: EvidenceStore, url: str) -> bytes:
    """Return what a URL names, from the store that it is of: what was sealed before a change stays where it is."""
    held = store.of(url) if isinstance(store, SucceedingStore) else store
    return await held.get(held.key(url))
