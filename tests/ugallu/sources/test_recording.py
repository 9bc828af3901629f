"""A recorded log from end to end: every event, whatever packs it, and an empty text for what is none."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ugallu.errors import PermanentError
from ugallu.sources.recording import recorded

EVENT = {"kind": "Event", "apiVersion": "audit.k8s.io/v1", "verb": "get", "auditID": "a"}
LIST = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [{**EVENT, "auditID": name} for name in "bc"]}
TEXT = "\n".join([json.dumps(EVENT), json.dumps(LIST), "no event", json.dumps({**EVENT, "auditID": "d"})]).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("ending", [b"", b"\n"], ids=["cut", "whole"])
def test_every_event_comes_in_order(tmp_path: Path, pack: "type[bytes]", ending: bytes) -> None:
    """Lists are taken apart, the last line needs no newline, and a line that is none is told by its emptiness."""
    path = tmp_path / "audit.log"
    path.write_bytes(pack(TEXT + ending))
    assert [json.loads(event)["auditID"] if event else None for event in recorded(path)] == ["a", "b", "c", None, "d"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(PermanentError, match=r"gone\.log: cannot be read"):
        list(recorded(tmp_path / "gone.log"))


@given(content=st.binary(max_size=300))
def test_any_bytes_end(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Nothing but the one error comes out."""
    path = tmp_path_factory.mktemp("any") / "audit.log"
    path.write_bytes(content)
    try:
        found = list(recorded(path))
    except PermanentError:
        return
    assert all(isinstance(event, bytes) for event in found)
