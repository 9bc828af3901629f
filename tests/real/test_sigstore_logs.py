"""The public kinds of logs, real ones: they pass the battery of the embedded log, and what they answer is checked."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.rig.evidence.stack import Sigstore
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError
from ugallu.evidence import timestamp, trusted_root
from ugallu.evidence.authority import TimestampService
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.rekor_v2 import RekorV2
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, IntegrityError, TransparencyLog
from ugallu.evidence.signers.local import LocalSigner, open_key
from ugallu.evidence.trusted_root import LogKey
from ugallu.net.client import HttpClient, Limits
from ugallu.testing.contracts.evidence import Envelopes, LogContract, subject

pytestmark = pytest.mark.real


def key_of(sigstore: Sigstore, url: str) -> LogKey:
    """Return the key of the log at this URL, as the trusted root has it."""
    logs = trusted_root.read(sigstore.trusted_root).logs.values()
    (found,) = [log for log in logs if log.url.rpartition(":")[2] == url.rpartition(":")[2]]
    return found


@pytest.fixture
def signer(tmp_path: Path) -> LocalSigner:
    return LocalSigner(open_key(tmp_path / "keys" / "attestor.key"))


@pytest.fixture
def envelope(signer: LocalSigner) -> Envelopes:
    return lambda number: signer.sign(STATEMENT_MEDIA_TYPE, subject(number))


@pytest.fixture
async def rekor1(sigstore: Sigstore, tmp_path: Path) -> AsyncIterator[RekorV1]:
    log = key_of(sigstore, sigstore.rekor1)
    async with HttpClient(sigstore.rekor1) as client:
        yield RekorV1(client, log, Witness(log, tmp_path / "witness.json"), SystemClock())


@pytest.fixture
async def rekor2(sigstore: Sigstore, tmp_path: Path) -> AsyncIterator[RekorV2]:
    log = key_of(sigstore, sigstore.rekor2)
    # It answers once a second: let all of a test be under way together.
    limits = Limits(at_once=300)
    async with HttpClient(sigstore.rekor2, limits=limits) as client, HttpClient(sigstore.rekor2_tiles) as tiles:
        yield RekorV2(client, tiles, log, Witness(log, tmp_path / "witness.json"))


class TestRekorV1(LogContract):
    @pytest.fixture
    def log(self, rekor1: RekorV1) -> TransparencyLog:
        return rekor1


class TestRekorV2(LogContract):
    @pytest.fixture
    def log(self, rekor2: RekorV2) -> TransparencyLog:
        return rekor2


async def test_a_v2_log_of_more_than_one_tile_is_read(rekor2: RekorV2, envelope: Envelopes) -> None:
    """Past 256 entries there are full tiles: an entry of before is found in them, and old trees are proven."""
    signed = [await envelope(number) for number in range(270)]
    first = await rekor2.add(signed[0])
    async with anyio.create_task_group() as tg:
        for one in signed[1:]:
            tg.start_soon(rekor2.add, one)
    again = await rekor2.add(signed[0])
    assert again.index == first.index
    assert again.tree_size > 256
    assert await rekor2.remembers(first.tree_size, first.root_hash)


async def test_what_is_remembered_survives_a_restart(
    sigstore: Sigstore, rekor1: RekorV1, envelope: Envelopes, tmp_path: Path
) -> None:
    """A witness from the file compares the log's newest tree with the one of before."""
    entry = await rekor1.add(await envelope(1))
    reopened = Witness(key_of(sigstore, sigstore.rekor1), tmp_path / "witness.json")
    assert reopened.size == entry.tree_size
    async with HttpClient(sigstore.rekor1) as client:
        await RekorV1(client, key_of(sigstore, sigstore.rekor1), reopened, SystemClock()).audit()


async def test_a_v1_log_says_whether_it_has_an_entry(rekor1: RekorV1, envelope: Envelopes) -> None:
    """No before it was logged, and asking makes no entry; yes afterwards."""
    signed = await envelope(1)
    assert not await rekor1.has(signed)
    assert not await rekor1.has(signed)
    await rekor1.add(signed)
    assert await rekor1.has(signed)


async def test_another_log_is_not_believed(sigstore: Sigstore, envelope: Envelopes) -> None:
    """A log that answers under another key than the one configured is an integrity error, not an entry."""
    other = key_of(sigstore, sigstore.rekor2)
    async with HttpClient(sigstore.rekor1) as client:
        with pytest.raises(IntegrityError, match="does not hold"):
            await RekorV1(client, other, Witness(other), SystemClock()).add(await envelope(1))


async def test_times_are_signed_by_a_real_authority(sigstore: Sigstore) -> None:
    """A signature is stamped, the reply holds for it alone, and for nobody who trusts another authority."""
    authorities = trusted_root.read(sigstore.trusted_root).timestamp_authorities
    clock = SystemClock()
    async with HttpClient(sigstore.timestamps) as client:
        reply = await TimestampService(client, authorities, clock).stamp(b"signature")
        assert abs((timestamp.check(reply, b"signature", authorities) - clock.now()).total_seconds()) < 60
        with pytest.raises(IntegrityError, match="does not trust"):
            await TimestampService(client, (), clock).stamp(b"signature")
    async with HttpClient(sigstore.timestamps.replace("/timestamp", "/nothing")) as client:
        with pytest.raises(PermanentError, match="answered 404"):
            await TimestampService(client, authorities, clock).stamp(b"signature")
