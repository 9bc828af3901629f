"""Recorded logs: every format people have them in, to the end, and on from where a killed run stopped."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ugallu.errors import PermanentError
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings, LogSettings
from ugallu.sources.audit_file import BATCH, AuditFile, audit_files
from ugallu.testing.clock import ManualClock
from ugallu.testing.sourcing import Heard


def event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "verb": "get",
        "user": {"username": "alice"},
        **more,
    }


def line(number: int, **more: Any) -> bytes:
    return json.dumps(event(number, **more), separators=(",", ":")).encode() + b"\n"


def lines(*numbers: int) -> bytes:
    return b"".join(map(line, numbers))


def ids(heard: Heard) -> list[int]:
    return [int(record.audit_id.removeprefix("id-")) for record in heard.observations]


def made(*files: Path | str, metrics: Metrics | None = None, **more: Any) -> AuditFile:
    settings = AuditSettings(files=tuple(map(str, files)), **{"follow": False, **more})
    return AuditFile(settings, ManualClock(), metrics or Metrics(), logger(LogSettings(level="critical")))


async def replay(*files: Path | str, heard: Heard | None = None, **more: Any) -> Heard:
    heard = heard or Heard()
    await made(*files, **more).run(heard.publish, heard.checkpoint())
    counts = heard.counts
    if counts:
        assert counts["received"] == counts["parsed"] + counts["rejected"]
        assert counts["rejected"] == sum(n for name, n in counts.items() if name.startswith("rejected."))
    return heard


def test_nothing_to_read() -> None:
    """A source without a file says so."""
    with pytest.raises(PermanentError, match="no audit log"):
        made()
    with pytest.raises(PermanentError, match="one log"):
        made("a", "b", follow=True)


def test_names(tmp_path: Path) -> None:
    """Sources of different logs have different names, and the same log always the same."""
    names = [made(*files).name for files in (["/a"], ["/b"], ["/a", "/b"], ["/b", "/a"], ["-"])]
    assert len(set(names)) == 5
    assert made("/a").name == names[0]
    settings = AuditSettings(files=("/a", "/b", "/a"), follow=True)
    sources = audit_files(settings, ManualClock(), Metrics(), logger(LogSettings(level="critical")))
    assert [source.name for source in sources] == ["audit-file:/a", "audit-file:/b"]


@pytest.mark.parametrize("packed", ["plain", "gzip", "gzip members", "zstd", "zstd frames"])
async def test_formats(tmp_path: Path, packed: str) -> None:
    """Plain and compressed logs give the same events, whatever the file is called."""
    data = lines(*range(3000))
    half = data.index(b"\n", len(data) // 2) + 1
    packs = {
        "plain": data,
        "gzip": gzip.compress(data),
        "gzip members": gzip.compress(data[:half]) + gzip.compress(data[half:]) + b"\0" * 16,
        "zstd": zstandard.compress(data),
        "zstd frames": zstandard.compress(data[:half]) + zstandard.compress(data[half:]),
    }
    path = tmp_path / "anything"
    path.write_bytes(packs[packed])
    heard = await replay(path)
    assert ids(heard) == list(range(3000))
    assert max(len(batch.observations) for batch in heard.batches) <= 3 * BATCH


async def test_order_of_files(tmp_path: Path) -> None:
    """Files are read in the order given, also when one is given twice."""
    (tmp_path / "b").write_bytes(lines(1, 2))
    (tmp_path / "a").write_bytes(lines(3))
    assert ids(await replay(tmp_path / "b", tmp_path / "a", tmp_path / "b")) == [1, 2, 3, 1, 2]


async def test_missing(tmp_path: Path) -> None:
    """A file that is not there, or is a directory, is a permanent error that names it."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(PermanentError, match=str(path)):
            await replay(path)


async def test_last_line_without_newline(tmp_path: Path) -> None:
    """In a recorded log the last line counts, newline or not."""
    path = tmp_path / "log"
    path.write_bytes(lines(1, 2)[:-1])
    assert ids(await replay(path)) == [1, 2]
    path.write_bytes(lines(1, 2)[:-9])
    heard = await replay(path)
    assert ids(heard) == [1]
    assert heard.counts["rejected.json"] == 1


async def test_blank_crlf_bom(tmp_path: Path) -> None:
    """Blank lines are nothing; CRLF and a byte-order mark do not matter."""
    path = tmp_path / "log"
    path.write_bytes(b"\xef\xbb\xbf" + lines(1).replace(b"\n", b"\r\n") + b"\r\n\n  \n" + lines(2) + b"\n\n")
    heard = await replay(path)
    assert ids(heard) == [1, 2]
    assert heard.counts == {"received": 2, "parsed": 2, "rejected": 0}


async def test_empty(tmp_path: Path) -> None:
    """An empty log is no event and no error, plain or compressed."""
    path = tmp_path / "log"
    for data in (b"", b"\n\n", gzip.compress(b""), b"\x1f", b"\n"):
        path.write_bytes(data)
        heard = await replay(path)
        assert ids(heard) == []
        assert heard.counts.get("parsed", 0) == 0


async def test_what_is_no_event(tmp_path: Path) -> None:
    """Each kind of bad line is counted by its reason, costs no neighbour, and leaves no content in the quarantine."""
    bad = {
        "json": [b"{", b'{"verb":"get"', b"nonsense", b'{"verb":\xff}', b'{"user":' + b"[" * 100_000 + b"}"],
        "shape": [b"[]", b"null", b"7", b'{"verb":5}', b'{"verb":"get","objectRef":[]}'],
        "kind": [b"{}", b'{"kind":"Pod"}', b'{"kind":"Event","reason":"Killing"}', b'{"kind":"EventList"}'],
    }
    secret = b'{"verb":5,"auditID":"abc-1","requestObject":{"data":{"password":"hunter2"}}}'
    path = tmp_path / "log"
    content, number = b"", 0
    for group in bad.values():
        for each in group:
            content += line(number) + each + b"\n"
            number += 1
    path.write_bytes(content + secret + b"\n")
    metrics = Metrics()
    source = made(path, metrics=metrics)
    heard = Heard()
    await source.run(heard.publish, None)
    assert ids(heard) == list(range(number))
    assert heard.counts["rejected.json"] == 5
    assert heard.counts["rejected.shape"] == 6
    assert heard.counts["rejected.kind"] == 4
    assert metrics.value("ugallu_audit_file_lines_total") == number
    assert metrics.value("ugallu_audit_file_parse_errors_total") == 15
    assert "hunter2" not in repr(source.quarantine)
    assert source.quarantine[-1].audit_id == "abc-1"
    assert len(source.quarantine) == 15


async def test_quarantine_is_bounded(tmp_path: Path) -> None:
    """A log of nothing but noise keeps no more than the last few lines in memory."""
    path = tmp_path / "log"
    path.write_bytes(b"noise\n" * 5000)
    source = made(path)
    heard = Heard()
    await source.run(heard.publish, None)
    assert heard.counts["rejected"] == 5000
    assert len(source.quarantine) == 32


async def test_event_lists(tmp_path: Path) -> None:
    """EventLists count by their items, between Events, on one line or many, with bad items counted alone."""
    items = [event(1), event(2), {"verb": 1}, {"kind": "Pod"}, event(3)]
    path = tmp_path / "log"
    path.write_bytes(line(0) + json.dumps({"kind": "EventList", "items": items}).encode() + b"\n" + line(4))
    heard = await replay(path)
    assert ids(heard) == [0, 1, 2, 3, 4]
    assert heard.counts == {"received": 7, "parsed": 5, "rejected": 2, "rejected.shape": 1, "rejected.kind": 1}
    path.write_bytes(json.dumps({"kind": "EventList", "items": []}).encode())
    assert (await replay(path)).counts.get("received", 0) == 0


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
async def test_one_list_a_file(tmp_path: Path, indent: int | str | None) -> None:
    """A whole file may be one EventList, pretty-printed or not, and is still published in small batches."""
    path = tmp_path / "log.json"
    many = list(range(BATCH * 3 + 5))
    path.write_text(json.dumps({"kind": "EventList", "items": [event(n) for n in many]}, indent=indent))
    heard = await replay(path)
    assert ids(heard) == many
    assert max(len(batch.observations) for batch in heard.batches) <= BATCH


async def test_printed_events(tmp_path: Path) -> None:
    """Events that `jq .` printed one after another are events; one that is cut off costs only itself."""
    path = tmp_path / "log.json"
    printed = [json.dumps(event(n, note='}] " {'), indent=2) for n in range(50)]
    path.write_text("\n".join(printed))
    assert ids(await replay(path)) == list(range(50))
    printed[7] = printed[7][:40]
    path.write_text("\n".join(printed))
    heard = await replay(path)
    assert ids(heard) == [n for n in range(50) if n != 7]
    assert heard.counts["rejected"] == 1


async def test_a_line_cut_in_its_middle_is_no_document(tmp_path: Path) -> None:
    """A log whose first line lost its end is still read line by line."""
    path = tmp_path / "log"
    for cut in range(1, len(line(0)) - 1):
        path.write_bytes(line(0)[:cut] + b"\n" + lines(*range(1, 40)))
        heard = await replay(path)
        assert ids(heard) == list(range(1, 40)), cut
        assert heard.counts["rejected"] == 1


async def test_legacy(tmp_path: Path) -> None:
    """The legacy text format is refused with the flag that ends it."""
    path = tmp_path / "log"
    path.write_text('2017-03-21T03:57:09.106841886-04:00 AUDIT: id="c939d2a7" stage="RequestReceived" ip="127.0.0.1"\n')
    with pytest.raises(PermanentError, match="--audit-log-format=json") as caught:
        await replay(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("limit", [4000, 100_000, 1_000_000])
async def test_oversize(tmp_path: Path, limit: int, packed: bool) -> None:
    """A line over the limit is rejected, its metadata still seen, and its neighbours are whole."""
    path = tmp_path / "log"
    big = {
        **event(1),
        "requestObject": {"kind": "Secret", "data": {"x": "y" * limit, "stageTimestamp": "no"}},
        "requestReceivedTimestamp": "2026-11-25T01:02:03.000004Z",
        "stageTimestamp": "2026-11-25T01:02:04.000005Z",
        "annotations": {"authorization.k8s.io/decision": "allow"},
    }
    data = line(0) + json.dumps(big, separators=(",", ":")).encode() + b"\n" + line(2)
    data += b"x" * (3 * limit) + b"\n" + line(3) + b"{" * (2 * limit)
    path.write_bytes(gzip.compress(data) if packed else data)
    heard = await replay(path, max_line_bytes=limit)
    assert ids(heard) == [0, 1, 2, 3]
    saved = heard.observations[1]
    assert saved.stage_timestamp == "2026-11-25T01:02:04.000005Z"
    assert bytes(saved.annotations) == b'{"authorization.k8s.io/decision":"allow"}'
    assert not saved.request_object
    assert heard.counts == {"received": 6, "parsed": 3, "rejected": 3, "rejected.oversize": 3, "salvaged": 1}


async def test_line_as_long_as_the_limit(tmp_path: Path) -> None:
    """A line of exactly the limit is a line, one byte more is not, however reads fall."""
    path = tmp_path / "log"
    for size in (500, 65_535, 65_536, 65_537, 131_072):
        body = line(1, x="")[:-1]
        whole = body[:-2] + b"y" * (size - len(body)) + b'"}'
        assert len(whole) == size
        for ending in (b"\n", b""):
            path.write_bytes(line(0) + whole + ending)
            assert ids(await replay(path, max_line_bytes=size)) == [0, 1]
            heard = await replay(path, max_line_bytes=size - 1)
            assert heard.counts["rejected.oversize"] == 1


async def test_damaged_archive(tmp_path: Path) -> None:
    """An archive that ends early gives what it holds, and one rejected line that says so."""
    data = lines(*range(5000))
    for whole in (gzip.compress(data), zstandard.compress(data)):
        path = tmp_path / "log"
        path.write_bytes(whole[: len(whole) // 2])
        heard = await replay(path)
        assert heard.counts["rejected.damaged"] == 1
        found = ids(heard)
        assert 0 < len(found) < 5000
        assert found == list(range(len(found)))


async def test_noise_in_an_archive(tmp_path: Path) -> None:
    """Noise behind the magic of an archive is one rejected line, no crash."""
    path = tmp_path / "log"
    for magic in (b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd"):
        path.write_bytes(magic + bytes(range(256)) * 40)
        heard = await replay(path)
        assert heard.counts["rejected.damaged"] == 1
        assert ids(heard) == []


async def test_zip_bomb(tmp_path: Path) -> None:
    """A few bytes that unpack to a line of hundreds of megabytes never fill the memory."""
    path = tmp_path / "log"
    zeros = b" " * (64 << 20)
    for packed in (gzip.compress(zeros, 1) * 3, zstandard.compress(zeros) * 3):
        path.write_bytes(packed + (gzip.compress(b"\n") if packed[:2] == b"\x1f\x8b" else zstandard.compress(b"\n")))
        script = (
            "import resource, sys, anyio\n"
            "from ugallu.sources.audit_file import AuditFile\n"
            "from ugallu.settings import *; from ugallu.logs import logger; from ugallu.metrics import Metrics\n"
            "from ugallu.clock import SystemClock\n"
            "s = AuditFile(AuditSettings(files=(sys.argv[1],), follow=False, max_line_bytes=1 << 20),\n"
            "              SystemClock(), Metrics(), logger(LogSettings(level='critical')))\n"
            "async def publish(batch): pass\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "anyio.run(s.run, publish, None)\n"
            "print(s.counts['rejected.oversize'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        done = subprocess.run(  # noqa: ASYNC221 - nothing else runs meanwhile
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        )
        oversize, grown = map(int, done.stdout.split())
        assert oversize == 1
        assert grown < 60_000


@pytest.mark.parametrize("form", ["lines", "list", "printed", "gzip"])
async def test_goes_on_after_a_crash(tmp_path: Path, form: str) -> None:
    """From any checkpoint a new process publishes exactly what is missing, with the same numbers and books."""
    items: list[Any] = [event(n) for n in range(BATCH * 3)]
    items[BATCH + 3 : BATCH + 3] = [{"verb": 1}, {"kind": "Pod"}]
    text = {
        "lines": "\n".join(map(json.dumps, items)),
        "gzip": "\n".join(map(json.dumps, items)),
        "list": json.dumps({"kind": "EventList", "items": items}),
        "printed": json.dumps({"kind": "EventList", "items": items}, indent=1)
        + "\n"
        + json.dumps(event(9999), indent=1),
    }[form]
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    whole = await replay(path, tmp_path / "log")
    assert len(whole.batches) > 4
    for kept in range(len(whole.batches)):
        heard = Heard()
        heard.batches = list(whole.batches)
        heard.forget(kept)
        await replay(path, tmp_path / "log", heard=heard)
        assert ids(heard) == ids(whole)
        assert heard.counts == whole.counts


async def test_another_content_under_the_same_name(tmp_path: Path) -> None:
    """A file that is not the one of last time is read from its start; numbers and books go on."""
    path = tmp_path / "log"
    path.write_bytes(lines(*range(10)))
    heard = await replay(path)
    path.write_bytes(lines(*range(100, 200)))
    await replay(path, heard=heard)
    assert ids(heard) == [*range(10), *range(100, 200)]
    assert heard.counts["received"] == 110


async def test_grown_since(tmp_path: Path) -> None:
    """A file that has grown since is read on from where it ended."""
    path = tmp_path / "log"
    path.write_bytes(lines(*range(10)))
    heard = await replay(path)
    with path.open("ab") as file:
        file.write(lines(10, 11))
    await replay(path, heard=heard)
    await replay(path, heard=heard)
    assert ids(heard) == list(range(12))


async def test_foreign_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that cannot be read is refused, not taken for none."""
    from ugallu.api.observation import Checkpoint

    path = tmp_path / "log"
    path.write_bytes(lines(1))
    heard = Heard()
    for resume in (b"nonsense", b'{"next":1,"place":{},"counts":{},"version":2}'):
        with pytest.raises(PermanentError, match="checkpoint"):
            await made(path).run(heard.publish, Checkpoint("s", "x", next=1, resume=resume))


def standard_input(data: bytes, *, piped: bool, tmp_path: Path) -> Sequence[str]:
    script = (
        "import anyio\n"
        "from ugallu.sources.audit_file import AuditFile\n"
        "from ugallu.settings import *; from ugallu.logs import logger; from ugallu.metrics import Metrics\n"
        "from ugallu.clock import SystemClock\n"
        "s = AuditFile(AuditSettings(files=('-',)), SystemClock(), Metrics(), logger(LogSettings(level='critical')))\n"
        "async def publish(batch): [print(r.audit_id) for r in batch.observations]\n"
        "anyio.run(s.run, publish, None)\n"
    )
    if piped:
        done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    else:
        path = tmp_path / "in"
        path.write_bytes(data)
        with path.open("rb") as file:
            done = subprocess.run([sys.executable, "-c", script], stdin=file, capture_output=True, check=True)
    return done.stdout.decode().split()


@pytest.mark.parametrize("piped", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_stdin(tmp_path: Path, piped: bool, packed: bool) -> None:
    """`-` reads a pipe or a redirected file, compressed or not, to its end."""
    data = lines(*range(2000))[:-1]
    found = standard_input(gzip.compress(data) if packed else data, piped=piped, tmp_path=tmp_path)
    assert found == [f"id-{n}" for n in range(2000)]


async def test_named_pipe(tmp_path: Path) -> None:
    """A named pipe is read until its writers close it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = subprocess.Popen(  # noqa: ASYNC220 - it only has to write
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'wb').write(sys.argv[2].encode())", path, lines(1, 2, 3)]
    )
    heard = await replay(path)
    assert ids(heard) == [1, 2, 3]
    writer.wait()
