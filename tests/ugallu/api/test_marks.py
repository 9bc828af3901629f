"""What stays in memory of events and bundles."""

import msgspec

from ugallu.api.bundle import (
    AttestationBundle,
    AttestationBundleSpec,
    AttestationBundleStatus,
    BundlePhase,
    InclusionProof,
    RekorEntry,
)
from ugallu.api.event import EventPhase, SecurityEvent, SecurityEventStatus
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Metadata, encode
from ugallu.cluster.weight import weigh
from ugallu.testing.evidence import make_event


def test_an_event_keeps_who_it_is_and_how_far_it_has_come() -> None:
    """Nothing of the fact stays but where it was observed."""
    event = msgspec.structs.replace(make_event(uid="u"), status=SecurityEventStatus(phase=EventPhase.ATTESTED))
    mark = msgspec.json.decode(encode(event), type=EventMark)
    assert mark.ref == event.ref
    assert mark.status.phase is EventPhase.ATTESTED
    assert mark.spec.cluster_identity == event.spec.cluster_identity
    assert weigh(mark) < 0.5 * weigh(msgspec.json.decode(encode(event), type=SecurityEvent))


def test_a_bundle_keeps_how_large_the_log_was() -> None:
    """Audit path and checkpoint go, which are most of it: whoever asks for them reads the bundle."""
    entry = RekorEntry(
        log_index=7,
        uuid="u",
        inclusion_proof=InclusionProof(tree_size=9, hashes=tuple(f"{number:064x}" for number in range(14))),
        checkpoint="log\n9\nroot\n",
    )
    bundle = AttestationBundle(
        metadata=Metadata(name="att-se-1", uid="b"),
        spec=AttestationBundleSpec(attested_for=make_event(uid="u").ref),
        status=AttestationBundleStatus(phase=BundlePhase.SEALED, rekor_entry=entry),
    )
    mark = msgspec.json.decode(encode(bundle), type=BundleMark)
    assert mark.ref == bundle.ref
    assert mark.spec.attested_for == bundle.spec.attested_for
    assert mark.status.phase is BundlePhase.SEALED
    assert mark.status.rekor_entry is not None
    assert mark.status.rekor_entry.inclusion_proof is not None
    assert mark.status.rekor_entry.inclusion_proof.tree_size == 9
    assert weigh(mark) < 0.6 * weigh(msgspec.json.decode(encode(bundle), type=AttestationBundle))
