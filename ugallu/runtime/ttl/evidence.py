"""Whether an object may go: sealed evidence of it, read back and verified, about this very object."""

import datetime as dt
from collections.abc import Iterable, Iterator

import msgspec

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec, AttestationBundleStatus, BundlePhase, RekorEntry
from ugallu.api.event import EvidenceRef, SecurityEvent, SecurityEventSpec
from ugallu.api.meta import Metadata, ObjectReference, Wire
from ugallu.api.response import EventResponse, EventResponseSpec
from ugallu.cluster.port import Cluster, NotFoundError
from ugallu.errors import PermanentError
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.ports import IntegrityError
from ugallu.evidence.seal import Keys
from ugallu.evidence.stores.parts import split
from ugallu.runtime.ttl.marks import Bundle, Whole
from ugallu.runtime.ttl.vault import Vault

_MONTHS = 120
_SPECS: dict[str, type[SecurityEventSpec | EventResponseSpec]] = {
    SecurityEvent.kind_info.name: SecurityEventSpec,
    EventResponse.kind_info.name: EventResponseSpec,
}


class Unsealed(Exception):  # noqa: N818 - no error: it may be sealed tomorrow
    """No sealed bundle attests the object."""


class _Attested(Wire, frozen=True, kw_only=True):
    """What an event remembers of its bundle."""

    attestation_digest: str = ""
    attestation_bundle_ref: ObjectReference = ObjectReference()


async def prove(cluster: Cluster, vault: Vault, item: Whole, bundles: Iterable[Bundle], now: dt.datetime) -> set[str]:
    """Verify the evidence of an event or a response and return its keys in the store.

    Raises `Unsealed` when nobody says that there is any, `IntegrityError` when it is not what it is said to be.
    """
    for mark in bundles:
        if mark.status.phase is not BundlePhase.SEALED:
            continue
        try:
            bundle = await cluster.get(AttestationBundle, mark.metadata.name)
        except NotFoundError:
            continue
        # The cache may be behind, and a name may have gone to another object since.
        if bundle.status.phase is BundlePhase.SEALED and bundle.spec.attested_for.uid == item.metadata.uid:
            await _confirm(vault, bundle, item)
            return set(keys_of(vault, bundle))
    bundle = await lost_bundle(vault, item, now)
    await _confirm(vault, bundle, item)
    return set(keys_of(vault, bundle))


async def _confirm(vault: Vault, bundle: AttestationBundle, item: Whole) -> None:
    await vault.confirm(bundle)
    attested = bundle.status.subject_ref
    if attested is None or attested.sha256 != digest(_spec(item)):
        raise IntegrityError("the evidence is not about this object as it is", where=item.metadata.name)


def _spec(item: Whole) -> bytes:
    try:
        return canonical(msgspec.convert(item.spec, _SPECS[type(item).kind_info.name]))
    except msgspec.ValidationError as error:
        raise IntegrityError(f"it cannot be read: {error}", where=item.metadata.name) from error


def keys_of(vault: Vault, bundle: AttestationBundle) -> Iterator[str]:
    """Yield the keys of everything that a bundle names in this store."""
    status = bundle.status
    urls = [ref.url for ref in (status.worm_ref, status.subject_ref) if ref is not None]
    for url in dict.fromkeys([*urls, *(archive.url for archive in status.bundles)]):
        try:
            # The bytes of one event may be a part of what is stored for many.
            key, _ = split(vault.store.key(url))
        except PermanentError:
            # It lies in the store of before: to be verified, and no more to be kept for longer.
            continue
        yield key
        if key.endswith(".sigstore.json"):
            yield key.removesuffix(".sigstore.json") + ".intoto.jsonl"


async def lost_bundle(vault: Vault, item: Whole, now: dt.datetime) -> AttestationBundle:
    """Return what a bundle that is gone would say, from the store: the event remembers its uid, and nothing is listed.

    Raises `Unsealed` for an event that was never said to be attested, or whose evidence is nowhere.
    """
    try:
        seen = msgspec.convert(item.status or {}, _Attested)
    except msgspec.ValidationError as error:
        raise Unsealed from error
    if not seen.attestation_digest or not seen.attestation_bundle_ref.uid:
        raise Unsealed
    uid = seen.attestation_bundle_ref.uid
    cluster_id = _cluster_id(item)
    born = item.metadata.creation_timestamp or now
    keys = Keys(uid)
    for month in _months(born, now):
        found = await vault.store.stat(keys.bundle(cluster_id, month))
        subject = await vault.store.stat(keys.subject(cluster_id, month))
        if found is not None and subject is not None:
            return AttestationBundle(
                metadata=Metadata(name=seen.attestation_bundle_ref.name, uid=uid),
                spec=AttestationBundleSpec(
                    attested_for=ObjectReference(
                        kind=type(item).kind_info.name, name=item.metadata.name, uid=item.metadata.uid
                    )
                ),
                status=AttestationBundleStatus(
                    phase=BundlePhase.SEALED,
                    statement_digest=seen.attestation_digest,
                    rekor_entry=RekorEntry(log_index=0, uuid=""),
                    worm_ref=EvidenceRef(media_type=found.media_type, url=found.url, sha256=found.sha256),
                    subject_ref=EvidenceRef(media_type=subject.media_type, url=subject.url, sha256=subject.sha256),
                ),
            )
    raise Unsealed


def _cluster_id(item: Whole) -> str:
    spec = item.spec if isinstance(item.spec, dict) else {}
    identity = spec.get("clusterIdentity")
    found = identity.get("clusterID", "") if isinstance(identity, dict) else ""
    return found if isinstance(found, str) else ""


def _months(first: dt.datetime, last: dt.datetime) -> Iterator[dt.datetime]:
    """Yield a day of each month from the first to the last, at least the first."""
    month = first.astimezone(dt.UTC).replace(day=1)
    for _ in range(_MONTHS):
        yield month
        month = (month + dt.timedelta(days=32)).replace(day=1)
        if month > last:
            return
