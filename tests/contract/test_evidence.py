"""The embedded ports of sealing pass the battery."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ugallu.api.platform import EncryptionConfig, EncryptionMode, WORMConfigSpec
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Lock
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.s3 import S3Store, open_store
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import Envelopes, LogContract, SignerContract, StoreContract, subject
from ugallu.testing.evidence import LocalEvidence, open_evidence
from ugallu.testing.s3 import FakeS3


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def evidence(tmp_path: Path, clock: ManualClock) -> Iterator[LocalEvidence]:
    opened = open_evidence(tmp_path, clock)
    yield opened
    opened.close()


class TestLocalSigner(SignerContract):
    @pytest.fixture
    def signer(self, evidence: LocalEvidence) -> object:
        return evidence.signer


class TestTileLog(LogContract):
    @pytest.fixture
    def log(self, evidence: LocalEvidence) -> object:
        return evidence.log

    @pytest.fixture
    def envelope(self, evidence: LocalEvidence) -> Envelopes:
        return lambda number: evidence.signer.sign(STATEMENT_MEDIA_TYPE, subject(number))


class TestS3Store(StoreContract):
    """Over a fake that demands what Amazon's service does; `tests/real/test_s3.py` has the real ones."""

    @pytest_asyncio.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[S3Store]:
        async with FakeS3(clock).serving() as fake:
            spec = WORMConfigSpec(
                endpoint=fake.url,
                bucket=fake.bucket("evidence"),
                encryption=EncryptionConfig(mode=EncryptionMode.SSE_S3),
                key_prefix="attestations",
            )
            opened = open_store(spec, fake.credentials, clock)
            yield opened
            await opened.aclose()

    async def test_its_lock_is_that_of_the_service(self, store: S3Store) -> None:
        """Nobody's lock is claimed before it is proven."""
        before = store.lock
        await store.prove()
        assert (before, store.lock) == (Lock.PROCESS, Lock.STORE)
        assert store.endpoint.startswith("s3://evidence@127.0.0.1:")


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def store(self, evidence: LocalEvidence) -> DirectoryStore:
        return evidence.store

    def test_is_honest_about_its_lock(self, store: DirectoryStore) -> None:
        """The directory store claims no lock but our own."""
        assert store.lock is Lock.PROCESS
        assert store.endpoint.startswith("file:///")
