"""What goes wrong between a client and its server ends as an error of the port, soon, and never as a wrong answer."""

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from tests.ugallu.cluster.kubernetes.conftest import Handler, Server, chunks, reply, silent, status
from ugallu.api.core import Lease
from ugallu.api.meta import Metadata
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.port import (
    AlreadyExistsError,
    Change,
    ForbiddenError,
    GoneError,
    InvalidError,
    Key,
    NotFoundError,
    Notice,
    OutdatedError,
    Preconditions,
    UnavailableError,
)
from ugallu.errors import UgalluError
from ugallu.metrics import Metrics
from ugallu.testing.contracts.cluster import SlimRule


def document(name: str, version: int, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"u-{name}", "resourceVersion": str(version), **more}}


def line(change: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": change, "object": thing}, separators=(",", ":")).encode() + b"\n"


async def drain(
    watch: AsyncIterator[Notice[SlimRule]], into: list[Notice[SlimRule]] | None = None
) -> list[Notice[SlimRule]]:
    """Return what a watch tells; `into` has it also when the watch breaks."""
    seen: list[Notice[SlimRule]] = [] if into is None else into
    async with aclosing(watch) as notices:  # type: ignore[type-var]
        async for notice in notices:
            seen.append(notice)  # noqa: PERF401 - what came before an error counts
    return seen


async def follow(cluster: KubernetesCluster, into: list[Notice[SlimRule]] | None = None) -> list[Notice[SlimRule]]:
    return await drain(cluster.watch(SlimRule, since="1"), into)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(400, "BadRequest"), InvalidError),
        (status(401, "Unauthorized"), ForbiddenError),
        (status(403, "Forbidden"), ForbiddenError),
        (status(404, "NotFound"), NotFoundError),
        (reply(404, b"404 page not found"), NotFoundError),
        (status(405, "MethodNotAllowed"), InvalidError),
        (status(409, "AlreadyExists"), AlreadyExistsError),
        (status(409, "Conflict"), OutdatedError),
        (status(410, "Expired"), GoneError),
        (status(413, "RequestEntityTooLarge"), InvalidError),
        (reply(413, b"too large"), InvalidError),
        (status(415, "UnsupportedMediaType"), InvalidError),
        (status(422, "Invalid"), InvalidError),
        (status(429, "TooManyRequests"), UnavailableError),
        (status(500, "InternalError"), UnavailableError),
        (status(500, "", "etcdserver: request is too large"), InvalidError),
        (status(503, "ServiceUnavailable"), UnavailableError),
        (status(504, "Timeout"), UnavailableError),
        (reply(502, b"<html>bad gateway</html>"), UnavailableError),
        # Not from an API server: nobody must give up on an object because of it.
        (reply(400, b"<html>bad request</html>"), UnavailableError),
        (reply(409, b"conflict"), UnavailableError),
        (reply(302, b"", Location="https://login.example.org/"), UnavailableError),
        (reply(200, b"<html>sign in</html>", Content_Type="text/html"), UnavailableError),
        (reply(200, b'{"metadata": {"name": '), UnavailableError),
        (reply(200, b"\xff\xfe"), UnavailableError),
        (reply(200, {"metadata": {"name": 7}}), InvalidError),
    ],
)
async def test_every_answer_means_one_error(
    server: Server, cluster: KubernetesCluster, answer: Handler, error: type[UgalluError]
) -> None:
    """Status, reason and whether an API server said it decide which error it is, and the server's words are in it."""
    server.plan(answer)
    with pytest.raises(error) as caught:
        await cluster.get(SlimRule, "x")
    assert type(caught.value) is error
    assert caught.value.where == "sigmarules/x"
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (reply(429, {"kind": "Status", "code": 429}, Retry_After="7"), 7.0),
        (status(429, "TooManyRequests", retryAfterSeconds=3), 3.0),
        (reply(503, b"", Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), 0.0),
        (reply(503, b"", Retry_After="soon"), None),
        (reply(429, b"", Retry_After="999999999"), 60.0),
        (reply(503, b"", Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), 60.0),
        (status(429, "TooManyRequests", retryAfterSeconds=1e300), 60.0),
        (status(429, "TooManyRequests", retryAfterSeconds=-5), 0.0),
        (reply(503, b"", Retry_After="\u0663"), None),
    ],
)
async def test_a_server_says_when_to_come_back(
    server: Server, cluster: KubernetesCluster, answer: Handler, seconds: float | None
) -> None:
    """Retry-After, as a header or in the Status, reaches whoever retries."""
    server.plan(answer)
    with pytest.raises(UnavailableError) as caught:
        await cluster.get(SlimRule, "x")
    assert caught.value.retry_after == seconds


async def test_a_message_commands_no_terminal(server: Server, cluster: KubernetesCluster) -> None:
    """What a server quotes becomes one printable line of bounded length."""
    server.plan(status(422, "Invalid", "a\x1b[2Jb\nc" + "d" * 5000))
    with pytest.raises(InvalidError) as caught:
        await cluster.get(SlimRule, "x")
    assert str(caught.value).startswith("sigmarules/x: a\ufffd[2Jb c")
    assert len(str(caught.value)) < 1100


async def test_an_answer_may_be_packed(server: Server, cluster: KubernetesCluster) -> None:
    """We do not ask for gzip, but something on the way may use it."""
    server.plan(reply(200, gzip.compress(json.dumps(document("x", 4)).encode()), Content_Encoding="gzip"))
    assert (await cluster.get(SlimRule, "x")).metadata.resource_version == "4"
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "answer",
    [silent, chunks(b'{"metadata"', hold=True), chunks(b'{"metadata"', end=False)],
    ids=["silent", "stalled", "cut"],
)
async def test_a_server_that_stops_answering_is_unavailable(
    server: Server, cluster: KubernetesCluster, answer: Handler
) -> None:
    """No answer, half an answer and a broken one end within the time-out."""
    server.plan(answer)
    with anyio.fail_after(5), pytest.raises(UnavailableError):
        await cluster.get(SlimRule, "x")


async def test_a_slow_answer_that_moves_is_waited_for_only_so_long(server: Server, cluster: KubernetesCluster) -> None:
    """Bytes that trickle in do not stretch the time of a call."""

    async def trickle(_: object, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(1000):
            writer.write(b" ")
            await writer.drain()
            await anyio.sleep(0.05)

    server.plan(trickle)
    with anyio.fail_after(5), pytest.raises(UnavailableError):
        await cluster.get(SlimRule, "x")


async def test_nobody_there_is_unavailable(cluster: KubernetesCluster, server: Server, metrics: Metrics) -> None:
    """A refused connection is an error like any other, counted, and names the address and nothing of ours."""
    cluster._transport.access.server = "http://127.0.0.1:1"
    with pytest.raises(UnavailableError, match=r"no connection to 127\.0\.0\.1:1: [^<>]*$"):
        await cluster.get(SlimRule, "x")
    assert metrics.value("ugallu_cluster_requests_total", verb="get", outcome="unavailable") == 1


async def test_a_page_that_is_too_large_is_asked_for_by_halves(
    server: Server, cluster: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list whose page does not fit comes in smaller ones; only a single object can be too large."""
    monkeypatch.setattr("ugallu.cluster.kubernetes.client.PAGE_BYTES", 1000)
    large = reply(200, {"metadata": {"resourceVersion": "5"}, "items": [document("x" * 2000, 1)]})
    fits = reply(200, {"metadata": {"resourceVersion": "5", "continue": "more"}, "items": [document("x", 1)]})
    server.plan(large, large, fits)
    page = await cluster.list(SlimRule, limit=100)
    assert [item.metadata.name for item in page.items] == ["x"]
    assert page.continue_token == "more"
    assert ["limit=100" in server.requests[0].path, "limit=25" in server.requests[2].path] == [True, True]
    server.plan(large)
    with pytest.raises(UnavailableError):
        await cluster.list(SlimRule, limit=100)


async def test_one_bad_object_blinds_no_list(server: Server, cluster: KubernetesCluster) -> None:
    """What does not decode is counted; the rest of the page is there."""
    bad = {"metadata": {"name": ["no"]}}
    server.plan(reply(200, {"metadata": {"resourceVersion": "5"}, "items": [document("a", 1), bad, document("b", 2)]}))
    page = await cluster.list(SlimRule)
    assert ([item.metadata.name for item in page.items], page.skipped) == (["a", "b"], 1)
    server.plan(reply(200, {"metadata": {"resourceVersion": "5"}, "items": None}))
    assert (await cluster.list(SlimRule)).items == ()
    server.plan(reply(200, {"hello": "world"}))
    with pytest.raises(UnavailableError):
        await cluster.list(SlimRule)


async def test_a_watch_tells_changes_bookmarks_and_what_it_could_not_read(
    server: Server, cluster: KubernetesCluster
) -> None:
    """An object that does not fit is told of by its key; what follows it still comes."""
    bad = {"metadata": {"name": "b", "namespace": "n", "resourceVersion": "3", "labels": [1]}}
    mark = {"kind": "SigmaRule", "metadata": {"resourceVersion": "9"}}
    server.plan(
        chunks(
            line("ADDED", document("a", 2)) + line("MODIFIED", bad),
            line("DELETED", document("a", 4)),
            line("BOOKMARK", mark),
        )
    )
    seen = await follow(cluster)
    assert [(notice.change, notice.resource_version) for notice in seen] == [
        (Change.ADDED, "2"), (Change.MODIFIED, "3"), (Change.DELETED, "4"), (Change.BOOKMARK, "9"),
    ]  # fmt: skip
    assert [notice.unread for notice in seen] == [None, Key("n", "b"), None, None]
    assert [notice.object is None for notice in seen] == [False, True, False, True]


@pytest.mark.parametrize(
    ("answer", "error", "before"),
    [
        (chunks(line("ADDED", document("a", 2)), b'{"type":"ADD', end=False), UnavailableError, 1),
        (chunks(line("ADDED", document("a", 2)), b'{"type":"ADD'), UnavailableError, 1),
        (chunks(line("ADDED", document("a", 2)), hold=True), UnavailableError, 1),
        (chunks(line("ADDED", document("a", 2)), b"<html>\n"), UnavailableError, 1),
        (chunks(line("ADDED", document("a", 2)), line("UNHEARD", {})), UnavailableError, 1),
        (chunks(line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})), GoneError, 0),
        (chunks(line("ERROR", {"kind": "Status", "code": 500})), UnavailableError, 0),
        (chunks(line("ERROR", {"kind": "Status", "code": 504})), UnavailableError, 0),
        (status(410, "Gone"), GoneError, 0),
        (silent, UnavailableError, 0),
    ],
    ids=["cut", "half a line", "quiet", "garbage", "unheard of", "expired", "broken", "late", "gone", "silent"],
)
async def test_a_watch_that_breaks_says_so_after_what_it_told(
    server: Server, cluster: KubernetesCluster, answer: Handler, error: type[UgalluError], before: int
) -> None:
    """Whole lines before the break are told, nothing of a broken one, and the error says whether to list again."""
    server.plan(answer)
    seen: list[Notice[SlimRule]] = []
    with anyio.fail_after(5), pytest.raises(error) as caught:
        await follow(cluster, seen)
    assert type(caught.value) is error
    assert len(seen) == before


async def test_a_watch_that_ends_ends(server: Server, cluster: KubernetesCluster) -> None:
    """The server's own end of a watch is no error."""
    server.plan(chunks(line("ADDED", document("a", 2))))
    assert len(await follow(cluster)) == 1


async def test_an_endless_line_is_given_up(
    server: Server, cluster: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line longer than any object is an error before it fills the memory."""
    monkeypatch.setattr("ugallu.cluster.kubernetes.decode.Lines.__init__.__defaults__", (1000,))
    server.plan(chunks(*[b"x" * 100] * 20, hold=True))
    with pytest.raises(UnavailableError, match="longer than 1000"):
        await follow(cluster)


async def test_a_stream_begins_with_what_there_is(server: Server, cluster: KubernetesCluster) -> None:
    """The first bookmark is the end of the beginning; earlier ones are the server's own business."""
    end = {"metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}}
    server.plan(
        chunks(
            line("ADDED", document("a", 2)),
            line("BOOKMARK", {"metadata": {"resourceVersion": "5"}}),
            line("ADDED", document("b", 6)),
            line("BOOKMARK", end),
            line("DELETED", document("a", 8)),
            line("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
        )
    )
    seen = [(notice.change.value, notice.resource_version) for notice in await drain(cluster.stream(SlimRule))]
    assert seen == [("ADDED", "2"), ("ADDED", "6"), ("BOOKMARK", "7"), ("DELETED", "8"), ("BOOKMARK", "9")]
    assert "sendInitialEvents=true" in server.requests[0].path
    server.plan(chunks(line("ADDED", document("a", 2))))
    with pytest.raises(UnavailableError, match="before it had told"):
        await drain(cluster.stream(SlimRule))
    server.plan(status(422, "Invalid", "sendInitialEvents: Forbidden"))
    with pytest.raises(InvalidError):
        await drain(cluster.stream(SlimRule))


async def test_a_lease_is_renewed_whatever_else_is_under_way(server: Server, cluster: KubernetesCluster) -> None:
    """With every connection of the other lane stuck, a Lease is patched at once; and it gives up early."""

    async def answer(request: Any, writer: Any) -> None:
        held = reply(200, document("l", 2, namespace="n")) if "leases" in request.path else silent
        await held(request, writer)

    server.plan(answer)

    async def stuck() -> None:
        with pytest.raises(UnavailableError):
            await cluster.get(SlimRule, "x")

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(stuck)
        await server.until(lambda seen: sum("sigmarules" in request.path for request in seen) == 16)
        with anyio.fail_after(0.2):
            await cluster.patch(Lease, "l", {"spec": {"holderIdentity": "me"}}, "n")
    server.plan(silent)
    begun = anyio.current_time()
    with pytest.raises(UnavailableError):
        await cluster.get(Lease, "l", "n")
    assert anyio.current_time() - begun < 0.3


async def test_requests_share_connections(server: Server, cluster: KubernetesCluster) -> None:
    """Calls one after the other use one connection, also after a refusal."""
    server.plan(reply(200, document("x", 1)), status(404, "NotFound"), reply(200, document("x", 1)))
    await cluster.get(SlimRule, "x")
    with pytest.raises(NotFoundError):
        await cluster.get(SlimRule, "x")
    for _ in range(3):
        await cluster.get(SlimRule, "x")
    assert server.connections == 1


async def test_requests_are_what_the_api_documents(server: Server, cluster: KubernetesCluster) -> None:
    """Paths, queries, media types and bodies of every verb."""
    server.plan(reply(200, document("x", 1)))
    slim = SlimRule(metadata=Metadata(name="x"))
    await cluster.create(slim)
    await cluster.apply(slim, manager="me")
    when = Preconditions(uid="u", resource_version="3")
    await cluster.patch(SlimRule, "x", {"spec": {"a": None}, "status": {"b": 1}}, when=when)
    await cluster.patch_status(SlimRule, "x", {"matchCount": 2}, when=when)
    await cluster.delete(SlimRule, "x", when=when)
    seen = [(request.method, request.path.partition("v1alpha1")[2]) for request in server.requests]
    assert seen == [
        ("POST", "/sigmarules"),
        ("PATCH", "/sigmarules/x?fieldManager=me&force=true"),
        ("PATCH", "/sigmarules/x"),
        ("PATCH", "/sigmarules/x/status"),
        ("DELETE", "/sigmarules/x"),
    ]
    bodies = [json.loads(request.body) for request in server.requests]
    assert bodies[1] == {"apiVersion": "security.ugallu.io/v1alpha1", "kind": "SigmaRule", "metadata": {"name": "x"}}
    assert bodies[2] == {"spec": {"a": None}, "metadata": {"uid": "u", "resourceVersion": "3"}}
    assert bodies[3] == {"status": {"matchCount": 2}, "metadata": {"uid": "u", "resourceVersion": "3"}}
    assert bodies[4]["preconditions"] == {"uid": "u", "resourceVersion": "3"}
    assert bodies[4]["propagationPolicy"] == "Background"
    assert [request.headers["content-type"] for request in server.requests] == [
        "application/json", "application/apply-patch+yaml", "application/merge-patch+json",
        "application/merge-patch+json", "application/json",
    ]  # fmt: skip
    assert all(request.headers["user-agent"].startswith("ugallu/") for request in server.requests)


async def test_a_uid_guards_a_patch_of_status_though_servers_ignore_it(
    server: Server, cluster: KubernetesCluster
) -> None:
    """The object is read first and patched as read, again when it changed meanwhile; another uid is Outdated."""
    server.plan(
        reply(200, document("x", 1)),
        status(409, "Conflict"),
        reply(200, document("x", 2)),
        reply(200, document("x", 3)),
    )
    stored = await cluster.patch_status(SlimRule, "x", {"matchCount": 1}, when=Preconditions(uid="u-x"))
    assert stored.metadata.resource_version == "3"
    assert json.loads(server.requests[3].body)["metadata"] == {"resourceVersion": "2"}
    server.plan(reply(200, document("x", 3)))
    with pytest.raises(OutdatedError):
        await cluster.patch_status(SlimRule, "x", {"matchCount": 1}, when=Preconditions(uid="another"))
    assert server.requests[-1].method == "GET"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "%2e%2e", "a%2Fb"])
async def test_a_name_leads_nowhere_else(server: Server, cluster: KubernetesCluster, name: str) -> None:
    """No name reads a list, another object or another kind: nothing is even asked."""
    with pytest.raises(NotFoundError):
        await cluster.get(SlimRule, name)
    with pytest.raises(NotFoundError):
        await cluster.delete(SlimRule, name)
    if name:
        with pytest.raises(InvalidError):
            await cluster.list(Lease, namespace=name)
    with pytest.raises(InvalidError):
        await cluster.get(Lease, "x")
    with pytest.raises(InvalidError):
        await cluster.create(Lease(metadata=Metadata(name="x")))
    assert server.requests == []


async def test_what_is_no_json_is_not_sent(cluster: KubernetesCluster) -> None:
    """A patch that cannot be written is the caller's error."""
    with pytest.raises(InvalidError):
        await cluster.patch(SigmaRule, "x", {"spec": {"a": object()}})


@pytest.mark.parametrize("call", [lambda c: c.get(SlimRule, "x"), follow], ids=["call", "watch"])
async def test_close_ends_what_is_under_way(
    server: Server, cluster: KubernetesCluster, call: Callable[[KubernetesCluster], Any]
) -> None:
    """A call that waits for its answer fails, a watch that waits for its first byte too, and neither hangs."""
    server.plan(silent)

    async def ask() -> None:
        with pytest.raises(UnavailableError, match="closed"):
            await call(cluster)

    with anyio.fail_after(0.25):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.until(bool)
            await cluster.close()
    with pytest.raises(UnavailableError, match="closed"):
        await cluster.get(SlimRule, "x")
