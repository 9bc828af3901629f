"""Signing with a transit key: logins that end, versions that come, and a service that is not believed."""

import base64
import json
from pathlib import Path

import anyio
import pytest

from ugallu.errors import PermanentError, RefusedError
from ugallu.evidence import keys
from ugallu.evidence.dsse import pae
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, IntegrityError
from ugallu.evidence.signers.openbao import BATCH, FRESH, Login, Session, TransitSigner
from ugallu.evidence.signers.token import TokenFile
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import SignerContract
from ugallu.testing.openbao import FakeOpenBao


def jwt(**claims: object) -> str:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{middle}.c2ln"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(jwt(sub="x") + "\n")
    return tmp_path


def fake(clock: ManualClock, folder: Path, key_type: str = "ecdsa-p256") -> FakeOpenBao:
    bao = FakeOpenBao(clock, key_type=key_type)
    bao.accepted = (folder / "token").read_text().strip()
    return bao


def signer(bao: FakeOpenBao, folder: Path, *, key_type: str = "", mount: str = "auth/kubernetes") -> TransitSigner:
    session = Session(bao, Login(mount, "attestor", TokenFile(folder / "token")), bao.clock)
    kept = folder / "keys" / "transit.json"
    return TransitSigner(
        bao, session, bao.clock, mount="transit", key="ugallu", key_type=key_type or bao.key_type, kept=kept
    )


def holds(envelope: Envelope) -> bool:
    assert envelope.key is not None
    return keys.verifies(envelope.key.spki, envelope.signature, pae(envelope.payload_type, envelope.payload))


async def sign(by: TransitSigner, payload: bytes = b"payload") -> Envelope:
    return await by.sign(STATEMENT_MEDIA_TYPE, payload)


class TestTransitSigner(SignerContract):
    @pytest.fixture
    def signer(self, clock: ManualClock, folder: Path) -> TransitSigner:
        return signer(fake(clock, folder), folder)


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "ed25519", "rsa-2048", "rsa-4096"])
async def test_every_key_type_that_can_be_verified(clock: ManualClock, folder: Path, key_type: str) -> None:
    """Each is asked for as the server takes it (`sha2-256`, `asn1`, `pkcs1v15`), and its signatures hold."""
    envelope = await sign(signer(fake(clock, folder, key_type), folder))
    assert holds(envelope)


async def test_signatures_wanted_together_go_in_one_call(clock: ManualClock, folder: Path) -> None:
    """A thousand statements cost a handful of calls, and each gets its own signature."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    found: dict[int, Envelope] = {}

    async def one(number: int) -> None:
        found[number] = await sign(by, b"%d" % number)

    async with anyio.create_task_group() as tg:
        for number in range(1000):
            tg.start_soon(one, number)
    assert all(holds(envelope) and envelope.payload == b"%d" % number for number, envelope in found.items())
    assert sum("/sign/" in call for call in bao.calls) <= 2 + 1000 // BATCH


async def test_a_rotation_under_load_loses_no_signature_and_no_key(clock: ManualClock, folder: Path) -> None:
    """Signatures before, while and after the key is rotated all hold under the key they name, and all keys stay known."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    made: list[Envelope] = []

    async def load() -> None:
        for number in range(50):
            made.append(await sign(by, b"%d" % number))
            if len(made) in (40, 80, 120):
                bao.rotate()
                await clock.advance(FRESH)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tg:
        for _ in range(4):
            tg.start_soon(load)
    made.append(await sign(by))
    assert all(map(holds, made))
    assert {envelope.key for envelope in made} <= set(by.signs_as)
    assert len(by.signs_as) == 4
    assert made[-1].key == by.signs_as[0]


async def test_the_version_that_is_known_signs_until_the_next_look(clock: ManualClock, folder: Path) -> None:
    """A8: each signature is asked of one version by number, so a rotation in between costs no second one."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    first = await sign(by)
    bao.rotate()
    assert (await sign(by)).key == first.key
    assert bao.signed == 2
    await clock.advance(FRESH)
    assert (await sign(by)).key != first.key
    assert bao.signed == 3


async def test_every_version_stays_known_over_a_restart(clock: ManualClock, folder: Path) -> None:
    """A version that the service has forgotten is still one that we signed with."""
    bao = fake(clock, folder)
    first = (await sign(signer(bao, folder))).key
    bao.rotate()
    by = signer(bao, folder)
    assert list(by.signs_as) == [first]
    second = (await sign(by)).key
    assert list(by.signs_as) == [second, first]
    assert first is not None
    assert first.key_id.startswith("openbao:transit/ugallu:")


async def test_a_version_that_may_sign_no_more_is_noticed_at_once(clock: ManualClock, folder: Path) -> None:
    """Rotated, and the old version shut: the next signature is made with the new one, without an error."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    old = (await sign(by)).key
    bao.rotate()
    bao.min_encryption_version = 2
    envelope = await sign(by)
    assert holds(envelope)
    assert envelope.key != old


async def test_tokens_are_renewed_and_replaced(clock: ManualClock, folder: Path) -> None:
    """Half-way a token is renewed; one that was revoked, or cannot be renewed, is got anew, and nobody notices."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    await sign(by)
    await clock.advance(31)
    await sign(by)
    assert "POST /v1/auth/token/renew-self" in bao.calls
    assert sum(call.endswith("/login") for call in bao.calls) == 1
    bao.forget_tokens()
    await sign(by)
    assert sum(call.endswith("/login") for call in bao.calls) == 2
    bao.renewable = False
    await clock.advance(3600)
    await sign(by)
    await clock.advance(40)
    await sign(by)
    assert sum(call.endswith("/login") for call in bao.calls) >= 3


async def test_the_token_file_is_read_again_for_every_login(clock: ManualClock, folder: Path) -> None:
    """The kubelet replaces the token: what is shown is what lies there now."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    await sign(by)
    (folder / "token").write_text(jwt(sub="y"))
    bao.accepted = jwt(sub="y")
    bao.forget_tokens()
    await sign(by)


@pytest.mark.parametrize("mount", ["auth/kubernetes", "auth/jwt"])
async def test_a_refused_login_says_what_to_look_at(clock: ManualClock, folder: Path, mount: str) -> None:
    """403 of a kubernetes method and 400 of a jwt method both mean: not you. The token is not in the error."""
    bao = fake(clock, folder)
    bao.accepted = "another"
    with pytest.raises(RefusedError, match="bound accounts") as error:
        await sign(signer(bao, folder, mount=mount))
    assert (folder / "token").read_text().strip() not in str(error.value)


async def test_rights_that_are_missing_are_named(clock: ManualClock, folder: Path) -> None:
    """A good login whose policy is too narrow is refused with what it lacks."""
    bao = fake(clock, folder)
    bao.allows = False
    with pytest.raises(RefusedError, match="read on the key and update on sign"):
        await sign(signer(bao, folder))


async def test_a_key_that_vanished_is_an_error(clock: ManualClock, folder: Path) -> None:
    """No key, no signature, and none is made."""
    bao = fake(clock, folder)
    bao.versions.clear()
    with pytest.raises(PermanentError, match="no transit key"):
        await sign(signer(bao, folder))


async def test_a_key_made_anew_under_the_old_name_is_refused(clock: ManualClock, folder: Path) -> None:
    """Version 1 is another key than before: what it signs could not be told from what the first one signed."""
    bao = fake(clock, folder)
    await sign(signer(bao, folder))
    bao.versions.clear()
    bao.rotate()
    with pytest.raises(IntegrityError, match="another one than before"):
        await sign(signer(bao, folder))


async def test_an_old_copy_of_the_key_is_refused(clock: ManualClock, folder: Path) -> None:
    """Fewer versions than before: a backup was put back."""
    bao = fake(clock, folder)
    bao.rotate()
    await sign(signer(bao, folder))
    bao.versions.pop()
    with pytest.raises(IntegrityError, match="had 2 versions and now has 1"):
        await sign(signer(bao, folder))


async def test_a_signature_of_another_key_is_refused(clock: ManualClock, folder: Path) -> None:
    """A service that lies is found out before anything is logged."""
    bao = fake(clock, folder)
    bao.forge = True
    with pytest.raises(IntegrityError, match="does not hold"):
        await sign(signer(bao, folder))


async def test_a_key_of_another_type_is_refused(clock: ManualClock, folder: Path) -> None:
    """The config says what the key is; a key that is something else is not used as it happens to be."""
    with pytest.raises(PermanentError, match="not ed25519"):
        await sign(signer(fake(clock, folder), folder, key_type="ed25519"))


async def test_a_cancelled_signer_leaves_the_others_theirs(clock: ManualClock, folder: Path) -> None:
    """Who waits behind one that was cancelled in the middle of a call is signed for all the same."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    done: list[Envelope] = []

    async def one() -> None:
        done.append(await sign(by))

    async with anyio.create_task_group() as tg:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sign(by)
        tg.start_soon(one)
    assert all(map(holds, done))
    assert len(done) == 1


@pytest.mark.parametrize("name", ["../sys", "a/../b", "", "a b", "a?b", "/a"])
def test_names_cannot_leave_their_place(clock: ManualClock, folder: Path, name: str) -> None:
    """What becomes part of a path is a name."""
    bao = fake(clock, folder)
    session = Session(bao, Login("auth/kubernetes", "r", TokenFile(folder / "token")), clock)
    with pytest.raises(PermanentError, match="path"):
        TransitSigner(bao, session, clock, mount=name, key="k", key_type="ecdsa-p256", kept=folder / "x")


async def test_nothing_shows_the_token(clock: ManualClock, folder: Path) -> None:
    """Neither the service's token nor ours is in any repr."""
    bao = fake(clock, folder)
    by = signer(bao, folder)
    await sign(by)
    assert "s.1" not in repr(vars(by)) + repr(vars(by._session))
    assert bao.accepted not in repr(vars(by._session))
