"""Trusted roots: several made one, as stock verifiers read it."""

import json

import pytest

from ugallu.errors import PermanentError
from ugallu.evidence import trusted_root
from ugallu.testing.clock import ManualClock
from ugallu.testing.sigstore import FakeSigstore


def test_several_roots_become_one() -> None:
    """Everything that each believes is believed, once; two of one make that one."""
    one, two = (FakeSigstore(ManualClock()).trusted_root for _ in range(2))
    both = trusted_root.read(trusted_root.joined([one, two]))
    first, second = trusted_root.read(one), trusted_root.read(two)
    assert both.logs == {**first.logs, **second.logs}
    assert both.certificate_logs == {**first.certificate_logs, **second.certificate_logs}
    assert both.authorities == (*first.authorities, *second.authorities)
    assert both.timestamp_authorities == (*first.timestamp_authorities, *second.timestamp_authorities)
    assert trusted_root.read(trusted_root.joined([one, one])) == first


def test_of_two_words_on_one_log_the_first_counts() -> None:
    """The reader's own root stands before what an installation names."""
    root = json.loads(FakeSigstore(ManualClock()).trusted_root)
    later = json.loads(json.dumps(root))
    later["tlogs"][0]["publicKey"]["validFor"]["start"] = "2030-01-01T00:00:00Z"
    both = trusted_root.read(trusted_root.joined([json.dumps(one).encode() for one in (later, root)]))
    [log] = both.logs.values()
    assert log.start.year == 2030


def test_fields_that_stock_verifiers_refuse_are_left_out() -> None:
    """`operator` is of version 0.2; every list is there, which sigstore-python demands."""
    root = json.loads(FakeSigstore(ManualClock()).trusted_root)
    root["tlogs"][0]["operator"] = "somebody"
    del root["ctlogs"]
    written = json.loads(trusted_root.joined([json.dumps(root).encode()]))
    assert "operator" not in written["tlogs"][0]
    assert written["ctlogs"] == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"mediaType":"x"}', b"x" * (trusted_root.MAX_BYTES + 1)])
def test_what_is_no_root_is_refused(content: bytes) -> None:
    """One that cannot be read spoils the whole: nobody is left out in silence."""
    with pytest.raises(PermanentError):
        trusted_root.joined([FakeSigstore(ManualClock()).trusted_root, content])


def test_a_list_that_stands_twice_is_refused() -> None:
    """One reader would believe the first, another the second."""
    root = FakeSigstore(ManualClock()).trusted_root
    with pytest.raises(PermanentError, match="twice"):
        trusted_root.read(root.replace(b'"tlogs": [', b'"tlogs": [], "tlogs": [', 1))
