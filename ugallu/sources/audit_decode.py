"""Audit lines to `AuditRecord`s, and the books about it; pure, and fast where lines are as they should be.

    received = parsed + rejected + duplicate, rejected by reason as `rejected.<reason>`:
    json      not JSON, or not UTF-8 where we look      shape     JSON, but a field has another type
    kind      an object that is no audit Event          oversize  longer than the limit
    damaged   compressed data that ends early

`salvaged` counts the oversize lines whose metadata became a record all the same: their bodies are unknown. `mended`
counts the lines that the API server takes and our decoder takes only after `mended`. Blank lines are not received.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from ugallu.api.audit import AuditRecord, mended
from ugallu.api.observation import EMPTY
from ugallu.errors import PermanentError
from ugallu.sources.lines import Block, Oversize

_BOM: Final = b"\xef\xbb\xbf"
_LEGACY: Final = re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d) AUDIT: id=")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],]', re.DOTALL)
_ID: Final = re.compile(rb'"auditID":\s*"([A-Za-z0-9-]{1,64})"')
_VERB: Final = re.compile(rb'"verb":\s*"([a-z]{1,24})"')
_TIMES: Final = (b'"requestReceivedTimestamp":"', b'"stageTimestamp":"')
_LEDGER: Final = ("received", "parsed", "rejected")
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_QUARANTINE: Final = 32

T = TypeVar("T")

_record = msgspec.json.Decoder(AuditRecord)


class _Envelope(msgspec.Struct):
    """What tells an Event from an EventList from anything else."""

    kind: str = ""
    items: list[msgspec.Raw] | None = None


_envelope = msgspec.json.Decoder(_Envelope)


class Rejected(msgspec.Struct, frozen=True):
    """A line that became no record, without its content: audit lines hold secrets."""

    reason: str
    size: int
    digest: str
    """First 16 hex of the SHA-256, to find the line again in the log."""
    detail: str = ""
    audit_id: str = ""
    verb: str = ""


class AuditDecoder:
    """Decodes, counts, and keeps the last few rejected lines in `quarantine`."""

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.counts: dict[str, int] = dict.fromkeys(_LEDGER, 0)
        self.quarantine: deque[Rejected] = deque(maxlen=_QUARANTINE)

    def block(self, block: Block) -> list[AuditRecord] | None:
        """Decode a block of whole lines at once; None, and nothing counted, when any line is not a plain Event."""
        try:
            records = _record.decode_lines(memoryview(block.data)[: block.size])
        except _BROKEN:
            return None
        lines = len(records)
        if not _has_lines(block, lines) or not all([record.verb for record in records]):  # noqa: C419 - a generator is slower
            return None
        self.counts["received"] += lines
        self.counts["parsed"] += lines
        return records

    def line(self, line: bytes, skip: int = 0) -> Iterator[tuple[int, AuditRecord]]:
        """Decode one line or document: an Event, an EventList, or nothing.

        Yields each record with the number of items of the line that are counted by then; the first `skip` were
        counted by an earlier process. Raises `PermanentError` for the legacy text format.
        """
        text = line.removeprefix(_BOM).strip()
        if not text:
            return
        try:
            record, envelope = self._mending(_opened, text)
        except _BROKEN as error:
            if _LEGACY.match(text):
                raise PermanentError(
                    "the audit log is in the legacy text format",
                    where=self.where,
                    fix="start the API server with --audit-log-format=json",
                ) from error
            self._reject(text, _reason(error), str(error))
            return
        if envelope is None:
            if not skip:
                self._accept()
                yield 1, record
        elif envelope.items is None:
            self._reject(text, "kind", f"kind {envelope.kind[:64]!r} is no audit Event")
        else:
            for done, item in enumerate(envelope.items[skip:], skip + 1):
                # A copy: a view would keep the whole list alive as long as one of its events.
                found = self.item(bytes(item))
                if found is not None:
                    yield done, found

    def item(self, text: bytes) -> AuditRecord | None:
        """Decode one event of a list, mended where it has to be; None, and counted as rejected, when it is none."""
        try:
            record = self._mending(_record.decode, text)
        except _BROKEN as error:
            self._reject(text, _reason(error), str(error))
            return None
        if not record.verb:
            self._reject(text, "kind", "an item of the EventList is no audit Event")
            return None
        self._accept()
        return record

    def repeated(self) -> None:
        """Count an event that has come before."""
        for name in ("received", "duplicate"):
            self.counts[name] = self.counts.get(name, 0) + 1

    def oversize(self, line: Oversize) -> AuditRecord | None:
        """Count a line that is too long as rejected; return its metadata all the same if its ends show it."""
        self._reject(line.head, "oversize", f"{line.size} bytes", size=line.size)
        record = salvage(line.head, line.ending)
        if record is not None:
            self.counts["salvaged"] = self.counts.get("salvaged", 0) + 1
        return record

    def damaged(self, detail: str) -> None:
        """Count compressed data that ends early as one rejected line: how many it held, nobody knows."""
        self._reject(b"", "damaged", detail)

    def _mending(self, decode: Callable[[bytes], T], text: bytes) -> T:
        """Decode a text as it is, else mended: what stands in it may be a client's doing."""
        try:
            return decode(text)
        except msgspec.ValidationError:
            raise
        except _BROKEN:
            found = decode(mended(text))
        self.counts["mended"] = self.counts.get("mended", 0) + 1
        return found

    def _accept(self) -> None:
        self.counts["received"] += 1
        self.counts["parsed"] += 1

    def _reject(self, text: bytes, reason: str, detail: str, *, size: int | None = None) -> None:
        for name in ("received", "rejected", f"rejected.{reason}"):
            self.counts[name] = self.counts.get(name, 0) + 1
        start = text[:4096]
        self.quarantine.append(
            Rejected(
                reason,
                len(text) if size is None else size,
                hashlib.sha256(text).hexdigest()[:16],
                detail,
                _first(_ID, start),
                _first(_VERB, start),
            )
        )


def _opened(text: bytes) -> tuple[AuditRecord, _Envelope | None]:
    record = _record.decode(text)
    return record, None if record.verb else _envelope.decode(text)


def salvage(head: bytes, ending: bytes) -> AuditRecord | None:
    """Return what the two ends of a cut line tell of its event, bodies absent; None when that is not enough.

    The API server writes metadata before the bodies, times and annotations behind them.
    """
    members = _whole_members(head.removeprefix(_BOM))
    if not members:
        return None
    try:
        record = _record.decode(mended(members + b"}"))
    except _BROKEN:
        return None
    if not record.verb:
        return None
    record = msgspec.structs.replace(record, request_object=EMPTY, response_object=EMPTY)
    start = ending.rfind(_TIMES[0])
    if start >= 0:
        try:
            late = _record.decode(mended(b"{" + ending[start:].rstrip()))
        except _BROKEN:
            return record
        record = msgspec.structs.replace(
            record,
            request_received_timestamp=late.request_received_timestamp,
            stage_timestamp=late.stage_timestamp,
            annotations=late.annotations,
        )
    return record


def _has_lines(block: Block, count: int) -> bool:
    """Tell whether a block has `count` lines: one record each, none spanning two.

    Before Python 3.13 `bytes.count` looks at each byte in turn; long lines are counted faster with `find`.
    """
    if count * 512 > block.size:
        return block.data.count(b"\n", 0, block.size) == count
    find = block.data.find
    end = -1
    for _ in range(count):
        end = find(b"\n", end + 1)
        if end < 0:
            return False
    return end == block.size - 1


def _whole_members(head: bytes) -> bytes:
    """Return the head up to the last comma of the outermost object: all members before it are whole."""
    depth = 0
    end = 0
    for token in _TOKENS.finditer(head):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth <= 0:
                break
        elif mark == b"," and depth == 1:
            end = token.start()
    return head[:end]


def _reason(error: Exception) -> str:
    return "shape" if isinstance(error, msgspec.ValidationError) else "json"


def _first(pattern: re.Pattern[bytes], text: bytes) -> str:
    found = pattern.search(text)
    return found[1].decode("ascii") if found else ""
