"""The embedded ports of sealing pass the battery."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Lock
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import Envelopes, LogContract, SignerContract, StoreContract, subject
from ugallu.testing.evidence import LocalEvidence, open_evidence


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


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def store(self, evidence: LocalEvidence) -> DirectoryStore:
        return evidence.store

    def test_is_honest_about_its_lock(self, store: DirectoryStore) -> None:
        """The directory store claims no lock but our own."""
        assert store.lock is Lock.PROCESS
        assert store.endpoint.startswith("file:///")
