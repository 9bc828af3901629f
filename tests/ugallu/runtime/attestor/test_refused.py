"""Services that lie, refuse, or have lost something: a condition with its reason, an event, and nothing called sealed.

Through the whole operator, over services in memory; once somebody has mended it, everything is sealed, each logged once.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ugallu.api.bundle import AttestationBundle, BundlePhase, SigningMode
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.cluster.port import list_all
from ugallu.testing.afar import Shape, World, empty_cluster, living
from ugallu.testing.evidence import make_event
from ugallu.testing.sigstore import token
from ugallu.testing.trouble import TrueClock

KEYLESS, TRANSIT = SigningMode.FULCIO_KEYLESS, SigningMode.OPENBAO_TRANSIT
Change = Callable[[World], Callable[[], None]]
"""Breaks something, and returns what mends it."""


def _no_key(world: World) -> Callable[[], None]:
    kept, world.bao.versions = world.bao.versions, []
    return lambda: setattr(world.bao, "versions", kept)


def _another_key(world: World) -> Callable[[], None]:
    kept, world.bao.versions = world.bao.versions, []
    world.bao.rotate()
    return lambda: setattr(world.bao, "versions", kept)


def _no_login(world: World) -> Callable[[], None]:
    kept, world.bao.accepted = world.bao.accepted, "another"
    world.bao.forget_tokens()
    return lambda: setattr(world.bao, "accepted", kept)


def _no_right(world: World) -> Callable[[], None]:
    world.bao.allows = False
    return lambda: setattr(world.bao, "allows", True)


def _no_certificate(world: World) -> Callable[[], None]:
    world.sigstore.fulcio.refuses = 400
    world.true.move(600.0)  # the one of before has ended
    return lambda: setattr(world.sigstore.fulcio, "refuses", 0)


def _token_ended(world: World) -> Callable[[], None]:
    path = world.folder / "oidc"
    kept = path.read_text()
    path.write_text(token(ends=world.true.now()))
    world.true.move(600.0)  # the certificate of before has ended
    return lambda: _write(path, kept)


def _login_token_ended(world: World) -> Callable[[], None]:
    path = world.folder / "account" / "token"
    kept = path.read_text()
    path.write_text(token(ends=world.true.now()))
    world.true.move(600.0)  # so has the lease that it was shown for
    return lambda: _write(path, kept)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _rewritten(world: World) -> Callable[[], None]:
    rekor = world.sigstore.rekor
    kept = rekor.bodies[0]
    rekor.rewrite(0)
    return lambda: rekor.bodies.__setitem__(0, kept)


class Case(NamedTuple):
    """What breaks, in which mode, and what is said of it."""

    broken: Change
    mode: SigningMode
    condition: str
    reason: str
    event: str


CASES = (
    Case(_no_key, TRANSIT, "Signed", "SigningKeyGone", "KeyRotationEmergency"),
    Case(_another_key, TRANSIT, "Signed", "IntegrityViolation", "WORMIntegrityViolation"),
    Case(_no_login, TRANSIT, "Signed", "Unauthorized", "AttestorUnavailable"),
    Case(_no_right, TRANSIT, "Signed", "Unauthorized", "AttestorUnavailable"),
    Case(_no_certificate, KEYLESS, "Signed", "Unauthorized", "AttestorUnavailable"),
    Case(_token_ended, KEYLESS, "Signed", "TokenExpired", "AttestorUnavailable"),
    Case(_login_token_ended, TRANSIT, "Signed", "TokenExpired", "AttestorUnavailable"),
    Case(_rewritten, TRANSIT, "Logged", "IntegrityViolation", "WORMIntegrityViolation"),
    Case(_rewritten, KEYLESS, "Logged", "IntegrityViolation", "WORMIntegrityViolation"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.broken.__name__[1:]}-{case.mode.value}")
async def test_who_refuses_or_lies_is_said(tmp_path: Path, case: Case) -> None:
    """The bundle has the condition and its reason, one event tells it, nothing is sealed; mended, all is, logged once."""
    true = TrueClock()
    cluster = await empty_cluster(true)
    world = World(Shape(case.mode, 1, stamped=True, events=2, burst=False), tmp_path, true, cluster)
    await cluster.create(make_event("se-1"))
    async with living(world, random.Random(1)) as life:
        await life.work(rounds=5)
        assert await _phases(world) == [BundlePhase.SEALED]
        await cluster.create(make_event("se-2"))
        mend = case.broken(world)
        await life.work(rounds=5)
        await _said(world, case)
        mend()
        await life.work()
        assert not life.left
    assert await _phases(world) == [BundlePhase.SEALED] * 2
    assert not world.wrong
    assert len(world.entries) == 2
    await cluster.close()


async def _said(world: World, case: Case) -> None:
    bundle = await world.behind.get(AttestationBundle, "att-se-se-2")
    assert bundle.status.phase is not BundlePhase.SEALED
    assert (await world.behind.get(SecurityEvent, "se-2")).status.phase is not EventPhase.ATTESTED
    said = {c.type: (c.status, c.reason) for c in bundle.status.conditions}
    assert said[case.condition] == ("False", case.reason)
    assert [found.type.name for found in world.emitter.findings] == [case.event]
    assert world.emitter.findings[0].signals["reason"] == case.reason


async def _phases(world: World) -> list[BundlePhase | None]:
    bundles, _ = await list_all(world.behind, AttestationBundle)
    return [bundle.status.phase for bundle in bundles]
