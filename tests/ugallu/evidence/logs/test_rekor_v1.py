"""A Rekor v1 is asked, and not believed: what it answers is proven, and its past is remembered."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from ugallu.errors import PermanentError, TransientError
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, IntegrityError, TransparencyLog
from ugallu.net.ask import Reply
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import Envelopes, LogContract, subject
from ugallu.testing.sigstore import FakeRekor, keyed


@pytest.fixture
def rekor() -> FakeRekor:
    return FakeRekor(ManualClock())


def opened(rekor: FakeRekor, path: Path | None = None) -> RekorV1:
    return RekorV1(rekor, rekor.log, Witness(rekor.log, path), rekor.clock)


def envelope(number: int = 0) -> Envelope:
    return keyed(STATEMENT_MEDIA_TYPE, subject(number))


class TestRekorV1(LogContract):
    @pytest.fixture
    def log(self, rekor: FakeRekor) -> TransparencyLog:
        return opened(rekor)

    @pytest.fixture
    def envelope(self) -> Envelopes:
        async def made(number: int) -> Envelope:
            return keyed(STATEMENT_MEDIA_TYPE, subject(number))

        return made


async def test_an_entry_whose_answer_was_lost_is_found_again(rekor: FakeRekor) -> None:
    """The log took it and the connection broke: the next try is answered with that entry, and there is no second."""
    log, signed = opened(rekor), envelope()
    rekor.lose_answer = True
    with pytest.raises(TransientError):
        await log.add(signed)
    rekor.lose_answer = False
    assert (await log.add(signed)).index == 0
    assert len(rekor.bodies) == 1


async def test_whether_it_has_an_entry_is_asked_without_making_one(rekor: FakeRekor) -> None:
    """Yes or no, and the tree is as before; a log that answers no such questions has nothing, one that is away says nothing."""
    log, signed = opened(rekor), envelope()
    assert not await log.has(signed)
    assert rekor.bodies == []
    await log.add(signed)
    assert await log.has(signed)
    assert not await log.has(envelope(1))
    rekor.refuses = 422
    assert not await log.has(signed)
    rekor.refuses = 503
    with pytest.raises(TransientError):
        await log.has(signed)


async def test_an_entry_that_is_in_no_tree_yet_is_waited_for(rekor: FakeRekor) -> None:
    """A duplicate of a moment ago is not there to be read: it is asked for again, for a while."""
    log, signed = opened(rekor), envelope()
    await log.add(signed)
    rekor.late = 1
    assert isinstance(rekor.clock, ManualClock)
    async with anyio.create_task_group() as tg:
        tg.start_soon(rekor.clock.advance, 1.0)
        assert (await log.add(signed)).index == 0


@pytest.mark.parametrize(("status", "kind"), [(429, TransientError), (503, TransientError), (400, PermanentError)])
async def test_outages_and_refusals_are_told_apart(rekor: FakeRekor, status: int, kind: type[PermanentError]) -> None:
    """Too many requests and outages are tried again, after as long as the server wishes; a refusal is not."""
    rekor.refuses = status
    with pytest.raises(kind) as error:
        await opened(rekor).add(envelope())
    if status == 429:
        assert getattr(error.value, "retry_after", None) == 7.0


class Lying:
    """The log, with its answers changed on their way."""

    host = "rekor.test"

    def __init__(self, rekor: FakeRekor, change: Callable[[dict[str, Any]], None]) -> None:
        self._rekor = rekor
        self._change = change

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        reply = await self._rekor.ask(method, path, body, headers)
        if "/entries" in path and reply.status < 300:
            raw = msgspec.json.decode(reply.body)
            self._change(next(iter(raw.values())))
            return reply._replace(body=msgspec.json.encode(raw))
        return reply


def proof(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["verification"]["inclusionProof"]
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(integratedTime=raw["integratedTime"] + 1),
        lambda raw: raw.update(logIndex=raw["logIndex"] + 1),
        lambda raw: raw.update(logID="00" * 32),
        lambda raw: raw.update(body=raw["body"][:-8]),
        lambda raw: raw["verification"].update(signedEntryTimestamp="AAAA"),
        lambda raw: proof(raw).update(rootHash="00" * 32),
        lambda raw: proof(raw).update(treeSize=99),
        lambda raw: proof(raw).update(logIndex=1),
        lambda raw: proof(raw).update(hashes=["00" * 32]),
        lambda raw: proof(raw).update(hashes=["zz"]),
        lambda raw: proof(raw).update(checkpoint=proof(raw)["checkpoint"].replace(" - 1\n1\n", " - 1\n2\n")),
        lambda raw: proof(raw).update(checkpoint=""),
    ],
)
async def test_an_answer_that_does_not_hold_is_no_entry(
    rekor: FakeRekor, change: Callable[[dict[str, Any]], None]
) -> None:
    """Body, index, time, promise, proof, checkpoint: each is checked on receipt, before anything is built on it."""
    lying = Lying(rekor, change)
    with pytest.raises(PermanentError):
        await RekorV1(lying, rekor.log, Witness(rekor.log), rekor.clock).add(envelope())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"a":1}', b"\xff", b"[" * 100_000])
async def test_an_answer_that_is_torn_is_tried_again_or_refused(rekor: FakeRekor, body: bytes) -> None:
    """Half an answer, or none, never becomes an entry, and is an error of ours."""

    class Torn(Lying):
        async def ask(self, *arguments: Any, **more: Any) -> Reply:
            return Reply(201, {}, body)

    log = RekorV1(Torn(rekor, lambda _: None), rekor.log, Witness(rekor.log), rekor.clock)
    with pytest.raises((TransientError, IntegrityError)):
        await log.add(envelope())


async def test_a_rewritten_past_is_noticed_by_the_next_entry(rekor: FakeRekor) -> None:
    """An entry was changed and the whole tree signed anew: what it proves now did not grow from what it proved before."""
    log = opened(rekor)
    for number in range(5):
        await log.add(envelope(number))
    rekor.rewrite(2)
    with pytest.raises(IntegrityError, match="did not grow"):
        await log.add(envelope(9))


async def test_a_rewritten_past_is_noticed_after_a_restart(rekor: FakeRekor, tmp_path: Path) -> None:
    """What was remembered lies on our disk: a log that was put back, or changed while nobody looked, is noticed."""
    log = opened(rekor, tmp_path / "witness.json")
    for number in range(5):
        await log.add(envelope(number))
    shorter = rekor.bodies[:3]
    rekor.rewrite(2)
    with pytest.raises(IntegrityError, match="did not grow"):
        await opened(rekor, tmp_path / "witness.json").audit()
    rekor.bodies = shorter
    with pytest.raises(IntegrityError, match="does not know"):
        await opened(rekor, tmp_path / "witness.json").audit()


async def test_two_histories_at_once_are_noticed(rekor: FakeRekor) -> None:
    """Two trees of one size with two roots, both signed: one of the readers is lied to."""
    log = opened(rekor)
    for number in range(3):
        await log.add(envelope(number))
    rekor.rewrite(0)
    with pytest.raises(IntegrityError, match="did not grow"):
        await log.audit()


async def test_what_was_remembered_is_believed_only_if_the_log_signed_it(rekor: FakeRekor, tmp_path: Path) -> None:
    """A state file that somebody wrote is not taken for the log's word."""
    path = tmp_path / "witness.json"
    for content in (
        b"",
        b'{"checkpoint":"x"}',
        msgspec.json.encode({"checkpoint": FakeRekor(rekor.clock).checkpoint(0)}),
    ):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="cannot be read"):
            Witness(rekor.log, path)


async def test_a_location_is_an_id_and_nothing_else(rekor: FakeRekor) -> None:
    """A server that points elsewhere is not followed."""

    class Elsewhere(Lying):
        async def ask(self, method: str, path: str, *arguments: Any, **more: Any) -> Reply:
            assert method == "POST", path
            return Reply(409, {"location": "https://example.org/api/v1/log/entries/../../x"}, b"")

    log = RekorV1(Elsewhere(rekor, lambda _: None), rekor.log, Witness(rekor.log), rekor.clock)
    with pytest.raises(TransientError, match="not where"):
        await log.add(envelope())


async def test_each_shard_has_a_past_of_its_own(rekor: FakeRekor, tmp_path: Path) -> None:
    """A log that goes on in another tree tells no lie; what it signed of each is remembered, over restarts too."""
    path = tmp_path / "witness.json"
    log = opened(rekor, path)
    first = [await log.add(envelope(number)) for number in range(3)][-1]
    old = rekor.bodies, rekor.times
    rekor.shard()
    assert await log.remembers(first.tree_size, first.root_hash, "rekor.test - 1")
    second = await opened(rekor, path).add(envelope(5))
    assert not await log.remembers(first.tree_size, first.root_hash)
    assert await log.remembers(second.tree_size, second.root_hash, "rekor.test - 2")
    rekor.tree, (rekor.bodies, rekor.times) = 1, old
    rekor.rewrite(1)
    with pytest.raises(IntegrityError, match="did not grow"):
        await opened(rekor, path).audit()
