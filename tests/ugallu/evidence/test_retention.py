"""How long each class is kept."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.platform import RetentionConfig
from ugallu.errors import PermanentError
from ugallu.evidence.stores.retention import CAP, FLOOR, YEAR, Class, table

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def test_defaults_are_those_that_were_promised() -> None:
    """W1: a year, 90 days for subjects, and keys as long as the cap; nothing is ever kept for no time."""
    spans = table(RetentionConfig()).spans
    assert spans == {
        Class.BUNDLE: YEAR,
        Class.FORENSICS_FS: YEAR,
        Class.FORENSICS_MEM: YEAR,
        Class.SUBJECT: 90 * DAY,
        Class.AUDIT_CAPTURE: YEAR,
        Class.APPLIED_POLICY: YEAR,
        Class.TRUST: CAP,
    }
    assert table(RetentionConfig(bundle="0s", hard_cap_max="0s")).spans == spans


def test_each_class_has_its_own() -> None:
    """W1: every field of the config is followed."""
    asked = RetentionConfig(
        bundle="30d",
        forensics_fs="31d",
        forensics_mem="32d",
        subject_tier2="33d",
        audit_capture="34d",
        applied_policy="35d",
        hard_cap_max="1y",
    )
    assert [span.days for span in table(asked).spans.values()] == [365, 30, 31, 32, 33, 34, 35]


def test_what_is_not_followed_is_said() -> None:
    """W1: too short and too long are clamped, and a note says which field to which bound."""
    found = table(RetentionConfig(bundle="1h", forensics_fs="20y"))
    assert (found.spans[Class.BUNDLE], found.spans[Class.FORENSICS_FS]) == (FLOOR, CAP)
    assert found.notes == (
        "spec.retention.bundle: at least 14 days",
        "spec.retention.forensicsFs: at most 2555 days",
    )


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (RetentionConfig(hard_cap_max="1d"), "hardCapMax"),
        (RetentionConfig(subject_tier2="soon"), "subjectTier2"),
        (RetentionConfig(bundle="-1h"), "bundle"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(config: RetentionConfig, where: str) -> None:
    """A duration that is none, or a cap under the floor, is an error of the config."""
    with pytest.raises(PermanentError, match=where):
        table(config)


@given(st.integers(0, 9 * 365 * 24))
def test_dates_lie_between_floor_and_cap(hours: int) -> None:
    """W1: whatever is asked, evidence is kept for the floor and never over the cap."""
    until = table(RetentionConfig(bundle=f"{hours}h")).until(Class.BUNDLE, NOW)
    assert NOW + FLOOR <= until <= NOW + CAP
