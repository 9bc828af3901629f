"""Keyless signing: what is certified is used while it lasts, and is checked before anything is signed with it."""

import datetime as dt
from pathlib import Path

import anyio
import pytest

from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence import bundle, trusted_root
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, IntegrityError
from ugallu.evidence.signers.fulcio import FulcioSigner
from ugallu.evidence.signers.token import TokenFile
from ugallu.evidence.trust import Trust
from ugallu.evidence.x509 import Identity
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import subject
from ugallu.testing.sigstore import WHO, FakeFulcio, FakeSigstore, token


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def services(clock: ManualClock) -> FakeSigstore:
    return FakeSigstore(clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(token() + "\n")
    return tmp_path / "token"


def put(path: Path, text: str) -> None:
    path.write_text(text)


def signer(services: FakeSigstore, path: Path, issuer: str = "") -> FulcioSigner:
    root = trusted_root.read(services.trusted_root)
    return FulcioSigner(services.fulcio, TokenFile(path), root, services.clock, issuer=issuer)


async def test_what_is_signed_verifies_as_the_account(services: FakeSigstore, path: Path) -> None:
    """Certificate, promise of the certificate log, entry, promise of the log: the whole bundle holds, for this name."""
    by = signer(services, path, issuer=WHO.issuer)
    envelope = await by.sign(STATEMENT_MEDIA_TYPE, subject(1))
    log = services.rekor.log
    entry = await RekorV1(services.rekor, log, Witness(log), services.clock).add(envelope)
    trust = Trust(trusted_root.read(services.trusted_root), by.signs_as)
    report = trust.check(bundle.write(envelope, entry), subject=b"1")
    assert report.ok, report.reason
    assert report.signer == WHO
    assert by.signs_as == (WHO,)
    assert envelope.key_id.startswith(f"fulcio:{WHO.name}:")
    assert (by.mode, await by.public_key()) == ("fulcio-keyless", None)  # type: ignore[func-returns-value]


async def test_a_certificate_serves_until_a_minute_before_its_end(
    services: FakeSigstore, path: Path, clock: ManualClock
) -> None:
    """Hundreds of signatures, at once and later, cost one certificate; then key and certificate are new ones."""
    ends: list[dt.datetime] = []
    root = trusted_root.read(services.trusted_root)
    by = FulcioSigner(services.fulcio, TokenFile(path), root, clock, told=ends.append)
    used: list[bytes] = []

    async def one() -> None:
        used.append((await by.sign("t", b"x")).certificate)

    async with anyio.create_task_group() as tg:
        for _ in range(200):
            tg.start_soon(one)
    await clock.advance(8 * 60)
    await one()
    assert services.fulcio.calls == len(set(used)) == 1
    await clock.advance(61)
    await one()
    assert services.fulcio.calls == len(set(used)) == 2
    assert len(ends) == 2


async def test_a_clock_that_is_set_back_prolongs_no_certificate(
    services: FakeSigstore, path: Path, clock: ManualClock
) -> None:
    """Its life is measured by the clock that nobody sets as well: yesterday's time makes it no younger."""
    by = FulcioSigner(services.fulcio, TokenFile(path), trusted_root.read(services.trusted_root), clock)
    first = await by.sign("t", b"x")
    clock._now -= dt.timedelta(minutes=20)
    await clock.advance(9 * 60 + 1)
    assert (await by.sign("t", b"x")).certificate != first.certificate
    assert services.fulcio.calls == 2


async def test_the_token_is_read_again_for_each_certificate(
    services: FakeSigstore, path: Path, clock: ManualClock
) -> None:
    """The kubelet replaces the token: the one in the file now is shown, in the header and nowhere else."""
    by = signer(services, path)
    await by.sign("t", b"x")
    renewed = token(ends=clock.now() + dt.timedelta(days=2))
    put(path, renewed)
    await clock.advance(600)
    await by.sign("t", b"x")
    assert services.fulcio.authorizations == [f"Bearer {token()}", f"Bearer {renewed}"]
    assert renewed not in repr(vars(by))


async def test_a_token_that_has_ended_is_waited_for(services: FakeSigstore, path: Path, clock: ManualClock) -> None:
    """An expired token is an outage that the kubelet mends: nothing is asked with it."""
    by = signer(services, path)
    put(path, token(ends=clock.now() - dt.timedelta(seconds=1)))
    with pytest.raises(TransientError, match="has ended"):
        await by.sign("t", b"x")
    assert services.fulcio.calls == 0


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no token"),
        ("", "JWT"),
        ("garbage.with.dots", "JWT"),
        (token(audience="other"), "audience"),
        (token(Identity("https://example.org/who", "https://issuer.test")), "no ServiceAccount"),
        (token(Identity(WHO.name, "https://other.test")), "of the issuer"),
    ],
)
def test_a_token_of_no_use_is_refused_before_anything_is_asked(
    services: FakeSigstore, path: Path, content: str | None, what: str
) -> None:
    """Missing, unreadable, for another audience, of another kind or issuer: the attestor is not ready, and says why."""
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(PermanentError, match=what):
        signer(services, path, issuer=WHO.issuer)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"with_sct": False}, "no promise"),
        ({"wrong_key": True}, "another key"),
        ({"identity": Identity(WHO.name + "x", WHO.issuer)}, "it is about"),
        ({"identity": Identity(WHO.name, WHO.issuer + "x")}, "it is about"),
        ({"detached": True}, "with the promise of a certificate log in it"),
    ],
)
async def test_a_certificate_that_verifiers_would_refuse_signs_nothing(
    services: FakeSigstore, path: Path, wrong: dict[str, object], what: str
) -> None:
    """Without a promise, about another key or name: found out before anything is signed or logged."""
    by = signer(services, path)
    for name, value in wrong.items():
        setattr(services.fulcio, name, value)
    with pytest.raises(PermanentError, match=what):
        await by.sign("t", b"x")


async def test_another_authority_is_not_believed(services: FakeSigstore, path: Path) -> None:
    """A Fulcio whose root is not the configured one is an integrity error."""
    root = trusted_root.read(services.trusted_root)
    other = FakeFulcio(services.clock)
    with pytest.raises(IntegrityError, match="not issued by an authority"):
        await FulcioSigner(other, TokenFile(path), root, services.clock).sign("t", b"x")


@pytest.mark.parametrize(("status", "kind"), [(400, RefusedError), (403, RefusedError), (503, TransientError)])
async def test_refusals_and_outages_are_told_apart(
    services: FakeSigstore, path: Path, status: int, kind: type[Exception]
) -> None:
    """A refused token waits for a person, an outage for better times; a later try succeeds."""
    by = signer(services, path)
    services.fulcio.refuses = status
    with pytest.raises(kind):
        await by.sign("t", b"x")
    services.fulcio.refuses = 0
    assert (await by.sign("t", b"x")).certificate
