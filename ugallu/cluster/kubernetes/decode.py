"""Bytes of lists and watches into Structs; one bad object never blinds a list. Pure, and the hot path of the client."""

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

from ugallu.api.meta import Resource
from ugallu.cluster.kubernetes.answers import Status, refusal
from ugallu.cluster.port import Change, InvalidError, Key, Notice, Page, UnavailableError

R = TypeVar("R", bound=Resource)

LINE_BYTES: Final = 32 << 20
"""The longest line of a watch that is taken: etcd holds 1.5 MiB an object, JSON is a few times that."""

_INITIAL_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark behind the objects there were (`metav1.InitialEventsAnnotationKey`)."""
_SPECIAL: Final = (b'"BOOKMARK"', b'"ERROR"')
"""As values these stand unescaped in a line that is special, and nowhere else but as a value; so a block without them
holds changes only."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    annotations: dict[str, str] | None = None


class _Shell(msgspec.Struct, frozen=True):
    """What every object has, whatever else does not fit."""

    metadata: _Metadata = _Metadata()


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ListMetadata(msgspec.Struct, frozen=True):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    continue_token: str = msgspec.field(name="continue", default="")


class _RawList(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: tuple[msgspec.Raw, ...] | None = None


class Codec(Generic[R]):
    """Decoders for one Struct; making them costs milliseconds, so keep it."""

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        self.one = msgspec.json.Decoder(kind).decode
        page = msgspec.defstruct(
            "Page", [("metadata", _ListMetadata, _ListMetadata()), ("items", tuple[kind, ...] | None, None)]  # type: ignore[valid-type]
        )  # fmt: skip
        event = msgspec.defstruct("Event", [("type", Change), ("object", kind)], gc=False)
        self._page = msgspec.json.Decoder(page).decode
        self._events: msgspec.json.Decoder[Any] = msgspec.json.Decoder(event)

    def object(self, body: bytes, where: str = "") -> R:
        """Return one object; raises `InvalidError` when it does not fit, `UnavailableError` when it is no JSON."""
        try:
            return self.one(body)
        except msgspec.ValidationError as error:
            raise InvalidError(f"stored object does not fit {self.kind.__name__}: {error}", where=where) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"what answered is no API server: {error}", where=where) from error

    def page(self, body: bytes, where: str = "") -> Page[R]:
        """Return one page of a list."""
        try:
            page: Any = self._page(body)
            items, skipped = page.items or (), 0
        except (msgspec.DecodeError, UnicodeDecodeError):
            page, items, skipped = self._page_by_item(body, where)
        if not page.metadata.resource_version:
            raise UnavailableError("what answered is no API server: a list without a resourceVersion", where=where)
        return Page(items, page.metadata.resource_version, page.metadata.continue_token, skipped)

    def changes(self, block: bytes) -> list[Any] | None:
        """Return the events of whole lines at once, None when one of them needs a closer look."""
        if any(word in block for word in _SPECIAL):
            return None
        try:
            return self._events.decode_lines(block)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _page_by_item(self, body: bytes, where: str) -> tuple[_RawList, tuple[R, ...], int]:
        try:
            page = _raw_list(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"what answered is no API server: {error}", where=where) from error
        items: list[R] = []
        for raw in page.items or ():
            try:
                items.append(self.one(raw))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return page, tuple(items), len(page.items or ()) - len(items)


_raw_list = msgspec.json.Decoder(_RawList).decode
_line = msgspec.json.Decoder(_Line).decode
_shell = msgspec.json.Decoder(_Shell).decode
_status = msgspec.json.Decoder(Status).decode


class Lines:
    """Chunks in, whole lines out; what is not yet a line waits."""

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def rest(self) -> int:
        """Bytes of the line that has not ended."""
        return self._size

    def feed(self, chunk: bytes) -> bytes:
        """Return the lines that are whole now, ends included; raises `UnavailableError` for one that is too long."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._keep(chunk)
            return b""
        if not self._parts:
            whole = chunk if end == len(chunk) else chunk[:end]
        else:
            whole = b"".join((*self._parts, chunk[:end]))
            self._parts.clear()
            self._size = 0
        if end < len(chunk):
            self._keep(chunk[end:])
        return whole

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        self._size += len(part)
        if self._size > self._limit:
            raise UnavailableError(f"a line of the watch is longer than {self._limit} bytes")
        self._parts.append(part)


class Reader(Generic[R]):
    """The notices of one watch; `unread` hears of each object that did not decode."""

    def __init__(self, codec: Codec[R], *, initial: bool = False, where: str = "") -> None:
        """`initial`: the watch begins with what there is, and bookmarks before the end of that are not passed on."""
        self.unread = 0
        """Objects that did not decode so far."""
        self._codec = codec
        self._initial = initial
        self._where = where
        self._lines = Lines()

    @property
    def initial(self) -> bool:
        """Whether the objects there were are still coming."""
        return self._initial

    def feed(self, chunk: bytes) -> Iterator[Notice[R]]:
        """Yield what these bytes complete; raises what an ERROR line means, and `UnavailableError` for garbage."""
        block = self._lines.feed(chunk)
        if not block:
            return
        events = self._codec.changes(block)
        if events is not None:
            for event in events:
                resource = event.object
                yield Notice(event.type, resource.metadata.resource_version, resource)
            return
        for line in block.splitlines():
            if line and (notice := self._closely(line)) is not None:
                yield notice

    def end(self) -> None:
        """Say that the stream ended; raises `UnavailableError` when that was too early."""
        if self._lines.rest:
            raise UnavailableError("the watch was cut in the middle of a line", where=self._where)
        if self._initial:
            raise UnavailableError("the watch ended before it had told what there is", where=self._where)

    def _closely(self, text: bytes) -> Notice[R] | None:
        try:
            line = _line(text)
            if line.type == "ERROR":
                status = _status(line.object)
                raise refusal(status.code, status, where=self._where)
            shell = _shell(line.object).metadata
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"the watch told what is no event: {error}", where=self._where) from error
        if line.type == "BOOKMARK":
            return self._bookmark(shell)
        try:
            change = Change(line.type)
        except ValueError as error:
            raise UnavailableError(f"the watch told what is no event: {line.type!r}", where=self._where) from error
        try:
            return Notice(change, shell.resource_version, self._codec.one(line.object))
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unread += 1
            return Notice(change, shell.resource_version, None, Key(shell.namespace, shell.name))

    def _bookmark(self, shell: _Metadata) -> Notice[R] | None:
        if self._initial:
            if (shell.annotations or {}).get(_INITIAL_END) != "true":
                return None
            self._initial = False
        return Notice(Change.BOOKMARK, shell.resource_version)
