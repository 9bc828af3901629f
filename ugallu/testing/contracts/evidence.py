"""The battery of the three ports of sealing: subclass, and say in a fixture how to open the thing.

Each `open_*` fixture returns a function; called again after `close`, it opens what is durable.
"""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError
from ugallu.evidence import statement, trusted_root, verify
from ugallu.evidence.dsse import pae
from ugallu.evidence.keys import verifies
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, EvidenceStore, IntegrityError, Signer, TransparencyLog
from ugallu.testing.clock import ManualClock

DAY = dt.timedelta(days=1)
Envelopes = Callable[[int], Awaitable[Envelope]]
Passing = Callable[[dt.timedelta], Awaitable[None]]


class SignerContract:
    """Fixture: `signer`."""

    async def test_signs_the_encoding_under_the_key_it_names(self, signer: Signer) -> None:
        """The signature is over PAE, and holds under the public key."""
        envelope = await signer.sign(STATEMENT_MEDIA_TYPE, b"payload")
        key = await signer.public_key()
        assert key is not None
        assert envelope.key == key
        assert envelope.payload == b"payload"
        assert verifies(key.spki, envelope.signature, pae(STATEMENT_MEDIA_TYPE, b"payload"))
        assert not verifies(key.spki, envelope.signature, b"payload")

    async def test_shows_no_secret(self, signer: Signer) -> None:
        """Neither repr nor mode gives the key away."""
        assert "PRIVATE" not in repr(signer) + signer.mode
        assert signer.mode in set(_modes())


def _modes() -> list[str]:
    from ugallu.api.bundle import SigningMode

    return [str(mode) for mode in SigningMode]


class LogContract:
    """Fixtures: `log`, and `envelope`, an async function from a number to a signed envelope, each time another."""

    async def test_entries_hold_under_the_trusted_root(self, log: TransparencyLog, envelope: Envelopes) -> None:
        """Every entry is proven by what the log itself publishes."""
        root = trusted_root.read(trusted_root.write([log.trusted_root]))

        async def add(number: int) -> None:
            signed = await envelope(number)
            entry = await log.add(signed)
            verify.verify_entry(entry, signed, root.logs[entry.log_id])

        # At once: a log may answer only after a second, with all of them.
        async with anyio.create_task_group() as tg:
            for number in range(5):
                tg.start_soon(add, number)

    async def test_remembers_its_trees_and_no_others(self, log: TransparencyLog, envelope: Envelopes) -> None:
        """Every tree that it proved an entry in is still its beginning; a taller or another one is not."""
        entries = [await log.add(await envelope(number)) for number in range(3)]
        for entry in entries:
            assert await log.remembers(entry.tree_size, entry.root_hash)
            assert not await log.remembers(entry.tree_size, bytes(32))
        newest = entries[-1]
        assert not await log.remembers(newest.tree_size + 1000, newest.root_hash)

    async def test_the_same_envelope_has_one_entry(self, log: TransparencyLog, envelope: Envelopes) -> None:
        """Adding again, at once or later, answers with the entry there is."""
        signed = await envelope(0)
        found = []

        async def add() -> None:
            found.append((await log.add(signed)).log_index)

        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(add)
        await log.add(await envelope(1))
        await add()
        assert len(set(found)) == 1

    async def test_concurrent_envelopes_each_have_their_own(self, log: TransparencyLog, envelope: Envelopes) -> None:
        """Envelopes that come together are all logged, and no two share an index."""
        found: dict[int, int] = {}

        async def add(number: int) -> None:
            found[number] = (await log.add(await envelope(number))).log_index

        async with anyio.create_task_group() as tg:
            for number in range(20):
                tg.start_soon(add, number)
        assert len(set(found.values())) == 20


class StoreContract:
    """Fixtures: `store`, `clock`.

    A store whose clock is not ours to move says in `term` how short a retention may be, and in `passing` how to wait.
    """

    @pytest.fixture
    def now(self, clock: Clock) -> dt.datetime:
        """The time, in whole seconds: stores keep dates no finer."""
        return clock.now().replace(microsecond=0)

    @pytest.fixture
    def term(self) -> dt.timedelta:
        """A retention that the test outlives."""
        return DAY

    @pytest.fixture
    def passing(self, clock: ManualClock) -> Passing:
        """Let time pass."""
        return lambda span: clock.advance(span.total_seconds())

    async def test_keeps_what_was_put(self, store: EvidenceStore, now: dt.datetime) -> None:
        """Content, digest, size, media type and retention come back as they were given."""
        until = now + DAY
        stored = await store.put("a/b.json", b"{}", media_type="application/json", until=until)
        assert await store.get("a/b.json") == b"{}"
        found = await store.stat("a/b.json")
        assert found is not None
        assert found == stored
        assert await store.read("a/b.json") == (stored, b"{}")
        assert (found.size, found.until, found.media_type) == (2, until, "application/json")
        assert found.sha256 == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

    async def test_a_part_has_a_name_of_its_own(self, store: EvidenceStore, now: dt.datetime) -> None:
        """A part is read, looked up, kept and held by its URL; only the whole is ever written or dropped."""
        stored = await store.put("a.jsonl", b"one\ntwo\n", media_type="text/plain", until=now + DAY)
        key = store.key(f"{stored.url}#bytes=4-6")
        found, content = await store.read(key)
        assert (content, found.size, found.until) == (b"two", 3, stored.until)
        assert found.sha256 == "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
        assert await store.get(key) == b"two"
        assert await store.stat(key) == found
        assert store.key(found.url) == key
        assert (await store.extend(key, now + 2 * DAY)).until == now + 2 * DAY
        with pytest.raises(IntegrityError):
            await store.get("a.jsonl@4-8")
        assert await store.stat("b.jsonl@0-1") is None
        for wrong in ("a.jsonl@", "a.jsonl@1", "a.jsonl@3-2", "a.jsonl@-1-2"):
            with pytest.raises(PermanentError, match="key"):
                await store.get(wrong)
        with pytest.raises(PermanentError, match="part"):
            store.key(f"{stored.url}#line=1")
        for call in (store.drop(key), store.put(key, b"", media_type="text/plain", until=now + DAY)):
            with pytest.raises(PermanentError, match="key"):
                await call

    async def test_stores_once(self, store: EvidenceStore, now: dt.datetime) -> None:
        """The same again is success; other content under the key is an integrity error and changes nothing."""
        until = now + DAY
        first = await store.put("a", b"one", media_type="text/plain", until=until)
        assert await store.put("a", b"one", media_type="text/plain", until=until) == first
        with pytest.raises(IntegrityError):
            await store.put("a", b"two", media_type="text/plain", until=until)
        assert await store.get("a") == b"one"

    async def test_retention_grows_and_never_shrinks(self, store: EvidenceStore, now: dt.datetime) -> None:
        """A later date extends, an earlier one is ignored."""
        for days, kept in ((2, 2), (5, 5), (1, 5)):
            stored = await store.put("a", b"x", media_type="text/plain", until=now + days * DAY)
            assert stored.until == now + kept * DAY

    async def test_retention_holds(
        self, store: EvidenceStore, now: dt.datetime, term: dt.timedelta, passing: Passing
    ) -> None:
        """Nothing is dropped before its time, everything may be after."""
        await store.put("a", b"x", media_type="text/plain", until=now + term)
        with pytest.raises(RefusedError):
            await store.drop("a")
        await passing(2 * term)
        await store.drop("a")
        assert await store.stat("a") is None
        with pytest.raises(PermanentError):
            await store.get("a")

    async def test_retention_is_extended_without_the_content(self, store: EvidenceStore, now: dt.datetime) -> None:
        """A key is kept longer on request, never shorter; what is not there cannot be kept."""
        until = now + DAY
        stored = await store.put("a", b"x", media_type="text/plain", until=until)
        assert await store.extend("a", until - dt.timedelta(hours=1)) == stored
        later = await store.extend("a", until + DAY)
        assert later.until == until + DAY
        assert await store.stat("a") == later
        await store.put("staging/a", b"x", media_type="text/plain", until=None)
        for key in ("b", "staging/a"):
            with pytest.raises(PermanentError):
                await store.extend(key, until)

    async def test_a_legal_hold_outlasts_every_date(
        self, store: EvidenceStore, now: dt.datetime, term: dt.timedelta, passing: Passing
    ) -> None:
        """What is held is not dropped after its retention either; lifted, it may go. Putting it again lifts nothing."""
        until = now + term
        await store.put("a", b"x", media_type="text/plain", until=until)
        for _ in range(2):
            assert (await store.hold("a", on=True)).held
        assert (await store.put("a", b"x", media_type="text/plain", until=until)).held
        await passing(2 * term)
        with pytest.raises(RefusedError, match="hold"):
            await store.drop("a")
        assert not (await store.hold("a", on=False)).held
        await store.drop("a")
        assert await store.stat("a") is None
        with pytest.raises(PermanentError):
            await store.hold("a", on=True)

    async def test_evidence_needs_a_date(self, store: EvidenceStore) -> None:
        """Only staging goes without retention; it may be replaced and dropped."""
        with pytest.raises(PermanentError, match="retention"):
            await store.put("a", b"x", media_type="text/plain", until=None)
        for content in (b"one", b"two"):
            await store.put("staging/a", content, media_type="text/plain", until=None)
            assert await store.get("staging/a") == content
        await store.drop("staging/a")
        assert await store.stat("staging/a") is None
        await store.drop("staging/a")

    @pytest.mark.parametrize(
        "key", ["", "/a", "../a", "a/../b", ".", "..", "a//b", "a/", "a/.hidden", "a\x00b", "a b", "ä", "x" * 600]
    )
    async def test_unsafe_keys_are_refused(self, store: EvidenceStore, now: dt.datetime, key: str) -> None:
        """A key cannot leave the store, by any verb."""
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.put(key, b"x", media_type="text/plain", until=now + DAY),
            lambda: store.get(key),
            lambda: store.read(key),
            lambda: store.stat(key),
            lambda: store.extend(key, now + DAY),
            lambda: store.hold(key, on=True),
            lambda: store.drop(key),
        ]
        for call in calls:
            with pytest.raises(PermanentError, match="key"):
                await call()

    async def test_concurrent_puts_of_one_key_agree(self, store: EvidenceStore, now: dt.datetime) -> None:
        """Of two contents for one key exactly one wins, and its writer is told so."""
        outcomes: list[str] = []

        async def put(content: bytes) -> None:
            try:
                await store.put("a", content, media_type="text/plain", until=now + DAY)
                outcomes.append("stored")
            except IntegrityError:
                outcomes.append("refused")

        async with anyio.create_task_group() as tg:
            tg.start_soon(put, b"one")
            tg.start_soon(put, b"two")
        assert sorted(outcomes) == ["refused", "stored"]
        assert await store.get("a") in (b"one", b"two")


def subject(number: int) -> bytes:
    """Return the payload of a Statement about a number, for `envelope` fixtures."""
    return statement.build([statement.subject_of("x", b"%d" % number)], statement.EVENT_PREDICATE, {})
