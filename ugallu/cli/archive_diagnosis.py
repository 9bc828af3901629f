"""What `ugallu doctor` says of what was sealed: the newest is read back and verified anew, as a stranger would.

Whoever sealed it, by a key on this disk, by an engine's key or by certificates: those that signed here are listed here.
Only what lies in the state directory is read; a bucket is left to `ugallu export`.
"""

from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import EvidenceRef
from ugallu.api.platform import AttestorConfig
from ugallu.cli import export_from
from ugallu.cli.diagnosis import NOTHING_SEALED, Finding, pages, said
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence import incident, trusted_root
from ugallu.evidence.ports import IntegrityError
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.trust import Trust
from ugallu.evidence.verify import Report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugallu.cluster.port import Cluster
    from ugallu.settings import Settings

EXAMINED: Final = 1000
"""So many of the newest seals are verified: a second or two."""


async def examine(path: Path, cluster: "Cluster", settings: "Settings") -> Finding:
    """Verify what was sealed last, by the bundles of a cluster, from the bytes in this state's archive."""
    from ugallu.supervisor.reach import namespace_of

    recent: list[AttestationBundle] = []
    total = 0
    async for page in pages(cluster, AttestationBundle):
        sealed = [bundle for bundle in page.items if bundle.status.phase is BundlePhase.SEALED]
        total += len(sealed)
        recent = nlargest(EXAMINED, [*recent, *sealed], key=lambda bundle: str(bundle.status.sealed_at))
    if not recent:
        return NOTHING_SEALED
    here = [bundle for bundle in recent if all(ref.url.startswith("file://") for ref in _named(bundle))]
    away = f"; {len(recent) - len(here):,} lie in a bucket, `ugallu export` verifies those" if recent != here else ""
    if not here:
        return Finding("archive", "ok", f"{total:,} bundles are sealed{away}")
    folder = path / export_from.FOLDER
    config = await export_from.config_of(cluster, AttestorConfig, namespace_of(settings))
    try:
        roots = list(export_from.roots_of(settings, config, folder, None))
    except PermanentError as error:
        fix = "pass --secrets DIR that holds the attestor's Secrets"
        return Finding("archive", "warn", f"{total:,} bundles are sealed; {error.what}: {error.where}", fix)
    trust = Trust(trusted_root.read(trusted_root.joined(roots)), export_from.signers_in(folder))
    bad = await _failed(here, _Shelf(folder / export_from.STORE, trust))
    if bad:
        told = f"{len(bad):,} of {len(here):,} sealed bundles do not verify; {bad[0]}{away}"
        return Finding("archive", "fail", told, "keep the disk as it is and find out who changed it")
    rest = f", the newest of {total:,}" if total > len(recent) else ""
    return Finding("archive", "ok", f"{len(here):,} sealed bundles verify from their archived bytes{rest}{away}")


async def _failed(bundles: "Iterable[AttestationBundle]", shelf: "_Shelf") -> list[str]:
    failed = []
    for bundle in bundles:
        try:
            await shelf.prove(bundle)
        except UgalluError as error:
            failed.append(f"{bundle.spec.attested_for.name}: {said(error)}")
    return failed


class _Shelf:
    """The archive of a state directory; bundles that many share are verified once."""

    def __init__(self, store: Path, trust: Trust) -> None:
        self._store = DirectoryStore(store, SystemClock())
        self._trust = trust
        self._reports: dict[tuple[str, str], Report] = {}

    async def prove(self, bundle: AttestationBundle) -> None:
        """Raise a `UgalluError` unless the archived bytes prove what this bundle is about."""
        about, status = bundle.spec.attested_for, bundle.status
        if status.subject_ref is None or about.kind not in incident.FACTS:
            raise IntegrityError("its status does not name what was attested", where=bundle.metadata.name)
        spec = await self._read(status.subject_ref.url, status.subject_ref.sha256)
        # Status names the bundles, and status is not signed: only the statement itself says whose evidence this is.
        named = {ref.url: ref.sha256 for ref in _named(bundle) if ref != status.subject_ref}
        reports = [await self._report(url, sha256) for url, sha256 in named.items()]
        incident.prove(about.kind, about.name, about.uid, spec, reports)

    async def _report(self, url: str, sha256: str) -> Report:
        if (url, sha256) not in self._reports:
            self._reports[url, sha256] = self._trust.check(await self._read(url, sha256))
        return self._reports[url, sha256]

    async def _read(self, url: str, sha256: str) -> bytes:
        # The directory may have been moved since: what counts is the key within the store.
        stored, content = await self._store.read(self._store.key(url))
        if stored.sha256 != sha256:
            raise IntegrityError("the archive holds other bytes than status names", where=url)
        return content


def _named(bundle: AttestationBundle) -> list[EvidenceRef]:
    """Return every blob that a bundle's status names."""
    status = bundle.status
    legs = [EvidenceRef(media_type=leg.media_type, url=leg.url, sha256=leg.sha256) for leg in status.bundles]
    return [*legs, *(ref for ref in (status.worm_ref, status.subject_ref) if ref is not None)]
