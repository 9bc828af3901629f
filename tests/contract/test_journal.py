"""The journal on segment files passes the battery, also where every batch begins a segment of its own."""

from pathlib import Path

from ugallu.clock import SystemClock
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import LogSettings
from ugallu.testing.contracts.journal import GENEROUS, JournalContract


class TestSegmented(JournalContract):
    segment_bytes = 0

    def open(self, directory: Path, retention: Retention = GENEROUS) -> SegmentedJournal:
        return SegmentedJournal(
            directory / "journal",
            retention,
            clock=SystemClock(),
            metrics=Metrics(),
            log=logger(LogSettings(level="critical")),
            segment_bytes=self.segment_bytes,
        )


class TestTinySegments(TestSegmented):
    segment_bytes = 64
