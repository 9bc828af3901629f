"""Every parser of foreign bytes: whatever it is given, it reads or raises our own error."""

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence import bundle, sct, timestamp, trusted_root, x509
from ugallu.evidence.logs import note
from ugallu.evidence.verify import Policy, verify
from ugallu.evidence.x509 import Identity

CASES = Path(__file__).parents[2] / "data" / "sigstore"
HAPPY = CASES / "rekor2-happy-path"
ROOT = trusted_root.read((HAPPY / "trusted_root.json").read_bytes())
BUNDLE = bundle.read((HAPPY / "bundle.sigstore.json").read_bytes())
WHO = x509.identity(x509.load(BUNDLE.certificate))
ANY = Policy(predicate_types=frozenset(), bare_files=True)

positions = st.integers(min_value=0, max_value=1 << 16)
flips = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=3)


def flipped(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    out = bytearray(content)
    for at, bits in changes:
        out[at % len(out)] ^= bits
    return bytes(out)


def quietly(parse: Callable[[], Any]) -> None:
    try:
        parse()
    except UgalluError:
        return


@settings(max_examples=200)
@given(flips)
def test_a_changed_timestamp_is_refused(changes: list[tuple[int, int]]) -> None:
    """No changed byte of a reply yields another time; the bytes that nothing covers are those of its certificates."""
    (stamp,) = BUNDLE.timestamps
    authorities = ROOT.timestamp_authorities
    good = timestamp.check(stamp, BUNDLE.signed.signature, authorities)
    content = flipped(stamp, changes)
    try:
        assert timestamp.check(content, BUNDLE.signed.signature, authorities) == good
    except UgalluError:
        return


@settings(max_examples=200)
@given(st.binary(max_size=400), flips, st.integers(0, 1 << 16))
def test_timestamps_and_certificates_of_any_bytes(junk: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    """Junk, cut and changed replies and certificates are errors of ours."""
    (stamp,) = BUNDLE.timestamps
    for content in (junk, stamp[: cut % len(stamp)]):
        with pytest.raises(UgalluError):
            timestamp.read(content)
    for content in (junk, flipped(BUNDLE.certificate, changes), BUNDLE.certificate[: cut % len(BUNDLE.certificate)]):

        def look(content: bytes = content) -> None:
            leaf = x509.load(content)
            x509.identity(leaf)

        quietly(look)


@settings(max_examples=200)
@given(flips)
def test_a_changed_certificate_is_refused(changes: list[tuple[int, int]]) -> None:
    """Names, times, keys and the promises of certificate logs: nothing in a certificate may change."""
    content = flipped(BUNDLE.certificate, changes)
    if content == BUNDLE.certificate:
        return
    raw = json.loads((HAPPY / "bundle.sigstore.json").read_bytes())
    raw["verificationMaterial"]["certificate"]["rawBytes"] = base64.b64encode(content).decode()
    subject = (CASES / "a.txt").read_bytes()
    report = verify(json.dumps(raw).encode(), identity=WHO, root=ROOT, subject=subject, policy=ANY)
    assert not report.ok


@settings(max_examples=200)
@given(flips)
def test_promises_of_certificate_logs_of_any_bytes(changes: list[tuple[int, int]]) -> None:
    """The list of promises, changed anywhere, is an error of ours."""
    issuer = x509.load(ROOT.authorities[0].chain[0])

    def look() -> None:
        sct.check(x509.load(flipped(BUNDLE.certificate, changes)), issuer, ROOT.certificate_logs)

    quietly(look)


@settings(max_examples=200)
@given(flips, st.text(max_size=80))
def test_checkpoints_of_any_bytes(changes: list[tuple[int, int]], junk: str) -> None:
    """A changed checkpoint, or no checkpoint, is an error of ours."""
    text = BUNDLE.entries[0].checkpoint
    for content in (flipped(text.encode(), changes).decode("utf-8", "replace"), junk, text + junk, junk + text):
        quietly(partial(note.read, content))


values: st.SearchStrategy[object] = st.sampled_from([None, True, 0, -1, 1 << 70, "", "x", [], {}]) | st.text(max_size=8)


@settings(max_examples=200)
@given(st.data())
def test_trusted_roots_with_any_value_changed(data: st.DataObject) -> None:
    """Any one value of a trusted root, replaced by anything: read, or an error of ours."""
    raw = json.loads((HAPPY / "trusted_root.json").read_bytes())
    spots: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in pairs:
            spots.append((value, key))
            walk(inner)

    walk(raw)
    holder, key = data.draw(st.sampled_from(spots))
    holder[key] = data.draw(values)
    quietly(lambda: trusted_root.read(json.dumps(raw).encode()))


def test_the_good_one_verifies() -> None:
    """What the tests above change is good unchanged."""
    subject = (CASES / "a.txt").read_bytes()
    content = (HAPPY / "bundle.sigstore.json").read_bytes()
    assert verify(content, identity=WHO, root=ROOT, subject=subject, policy=ANY).ok
    assert isinstance(WHO, Identity)
    with pytest.raises(PermanentError, match="another signature"):
        timestamp.check(BUNDLE.timestamps[0], b"another", ROOT.timestamp_authorities)
