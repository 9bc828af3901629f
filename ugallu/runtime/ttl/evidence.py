"""Whether an object may go: sealed evidence of it, read back and verified, about this very object."""

import datetime as dt
from collections.abc import Iterable, Iterator

import msgspec

from ugallu.api.bundle import (
    AttestationBundle,
    AttestationBundleSpec,
    AttestationBundleStatus,
    BundleArchive,
    BundlePhase,
    RekorEntry,
)
from ugallu.api.event import EvidenceRef, SecurityEvent, SecurityEventSpec
from ugallu.api.meta import Metadata, ObjectReference, Wire
from ugallu.api.response import EventResponse, EventResponseSpec
from ugallu.cluster.port import Cluster, NotFoundError
from ugallu.errors import PermanentError
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.ports import EvidenceStore, IntegrityError, Stored
from ugallu.evidence.seal import Keys, shared_name
from ugallu.evidence.share import part_of
from ugallu.evidence.stores.parts import split
from ugallu.runtime.ttl.marks import Bundle, Whole
from ugallu.runtime.ttl.vault import Vault

_MONTHS = 120
ROLES = ("", "fulcio", "openbao")
"""What the name of a bundle may say of who signed it: nothing, where one did; both, in dual mode."""
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
    bundle = await lost_bundle(vault.store, item, now)
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
            name = key.removesuffix(".sigstore.json")
            # The envelopes of all who signed lie under one name.
            role = next((role for role in ROLES if role and name.endswith(f".{role}")), "")
            yield name.removesuffix(f".{role}") + ".intoto.jsonl"


async def lost_bundle(store: EvidenceStore, item: Whole, now: dt.datetime) -> AttestationBundle:
    """Return what a bundle that is gone would say, from the store: the event remembers its uid, and nothing is listed.

    Sealed alone it lies under that uid, sealed with others under the digest of the statement that they shared. Raises
    `Unsealed` for an event that was never said to be attested, or whose evidence is nowhere.
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
    alone, shared = Keys(uid), Keys(shared_name(seen.attestation_digest))
    for month in _months(born, now):
        for keys, subject in (
            (alone, await store.stat(alone.subject(cluster_id, month))),
            (shared, await _part(store, shared.subjects(cluster_id, month), _spec(item))),
        ):
            legs = await _legs(store, keys, cluster_id, month) if subject is not None else ()
            if subject is not None and legs:
                return _found(item, seen, legs, subject)
    raise Unsealed


async def _part(store: EvidenceStore, key: str, content: bytes) -> Stored | None:
    """Return what is recorded of these bytes as a part of what lies under the key; None where they are not in it."""
    if await store.stat(key) is None:
        return None
    stored, whole = await store.read(key)
    part = part_of(whole, content)
    return None if part is None else part.of(stored, whole)[0]


async def _legs(store: EvidenceStore, keys: Keys, cluster_id: str, month: dt.datetime) -> tuple[BundleArchive, ...]:
    """Return the Sigstore bundles there are: one, or one of each who signed."""
    found = []
    for role in ROLES:
        stored = await store.stat(keys.bundle(cluster_id, month, role))
        if stored is not None:
            url, sha256 = stored.url, stored.sha256
            found.append(BundleArchive(role=role, media_type=stored.media_type, url=url, sha256=sha256))
    return tuple(found)


def _found(item: Whole, seen: _Attested, legs: tuple[BundleArchive, ...], subject: Stored) -> AttestationBundle:
    return AttestationBundle(
        metadata=Metadata(name=seen.attestation_bundle_ref.name, uid=seen.attestation_bundle_ref.uid),
        spec=AttestationBundleSpec(
            attested_for=ObjectReference(kind=type(item).kind_info.name, name=item.metadata.name, uid=item.metadata.uid)
        ),
        status=AttestationBundleStatus(
            phase=BundlePhase.SEALED,
            statement_digest=seen.attestation_digest,
            rekor_entry=RekorEntry(log_index=0, uuid=""),
            worm_ref=EvidenceRef(media_type=legs[0].media_type, url=legs[0].url, sha256=legs[0].sha256),
            subject_ref=EvidenceRef(media_type=subject.media_type, url=subject.url, sha256=subject.sha256),
            bundles=legs,
        ),
    )


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
