"""Evidence that ttl finds and proves with real bundles in a real directory, by the store alone."""

from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.marks import EventMark
from ugallu.cluster.port import list_all
from ugallu.evidence.ports import IntegrityError, Leg
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.share import Share
from ugallu.runtime.ttl.evidence import Unsealed, prove
from ugallu.runtime.ttl.marks import whole
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.evidence import make_event
from ugallu.testing.lifecycle import MemoryVault
from ugallu.testing.sealing import Desk, desk


@pytest.mark.parametrize("legs", [("",), ("fulcio", "openbao")])
@pytest.mark.parametrize("shared", [False, True])
async def test_t3_evidence_of_a_lost_bundle_is_found_however_it_was_sealed(
    tmp_path: Path, shared: bool, legs: tuple[str, ...]
) -> None:
    """Alone or in a statement of many, by one signer or by two: the event finds its proof, and nobody else's."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    for number in range(3):
        await cluster.create(make_event(f"se-{number:024x}"))
    async with desk(tmp_path, cluster, clock) as at:
        signer = at.reseal.stages.ports.legs[0].signer
        at.reseal.stages.ports = replace(
            at.reseal.stages.ports, legs=tuple(Leg(leg or "primary", signer) for leg in legs)
        )
        await seal_all(at, shared=shared)
        events, _ = await list_all(cluster, whole(SecurityEvent.kind_info))
        here = _Here(at)
        for item in events:
            names = await prove(cluster, here, item, (), clock.now())
            kinds = sorted(name.split(".", 1)[1] for name in names)
            assert kinds == sorted(
                [
                    "intoto.jsonl",
                    "spec.jsonl" if shared else "spec.json",
                    *(f"{leg}.sigstore.json".lstrip(".") for leg in legs),
                ]
            )
        changed = {**events[0].spec, "signals": {"rule": "another"}}
        with pytest.raises((Unsealed, IntegrityError)):
            await prove(cluster, here, msgspec.structs.replace(events[0], spec=changed), (), clock.now())
        if not shared:
            lent = {**events[0].status, "attestationBundleRef": events[1].status["attestationBundleRef"]}
            with pytest.raises(IntegrityError, match="another event"):
                await prove(cluster, here, msgspec.structs.replace(events[0], status=lent), (), clock.now())


class _Here(MemoryVault):
    """The store of an attestor in this process, and its word."""

    def __init__(self, at: Desk) -> None:
        self._stages = at.reseal.stages
        self.store = self._stages.store  # type: ignore[assignment]  # the port, and a real one

    async def confirm(self, bundle: AttestationBundle) -> None:
        await confirm_in(self.store, lambda b, s: self._stages.ports.check(b, subject=s), bundle)


async def seal_all(at: Desk, *, shared: bool) -> None:
    """Seal every event there is, together or one by one."""
    share = at.reseal.share
    assert isinstance(share, Share)
    at.reseal._busy = 1000 if shared else 0
    async with anyio.create_task_group() as tg:
        tg.start_soon(share.run)
        for event in (await list_all(at.cluster, EventMark))[0]:
            await at.enqueue.reconcile(event)
            await at.reseal.reconcile(await at.seen_bundle(f"att-se-{event.metadata.name}"))
        await at.cache.view(SecurityEvent).until(at.parts.idle)
        tg.cancel_scope.cancel()
