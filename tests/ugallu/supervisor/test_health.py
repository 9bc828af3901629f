"""Probes over real sockets: what a kubelet, a scraper and a rude client get."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
import structlog

from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.net.address import split_address
from ugallu.supervisor.health import HEAD_BYTES, Probes, Readiness, serve

LOG = structlog.wrap_logger(structlog.ReturnLogger())


@asynccontextmanager
async def listening(
    reasons: dict[str, str], metrics: Metrics | None = None, *, health: str = "127.0.0.1:0", scrape: str = ""
) -> AsyncIterator[Mapping[str, str]]:
    async with anyio.create_task_group() as tg:
        probes = Probes(metrics or Metrics(), lambda: reasons)
        yield await tg.start(
            lambda *, task_status: serve(probes, health=health, metrics=scrape, log=LOG, task_status=task_status)
        )
        tg.cancel_scope.cancel()


async def ask(address: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    host, port = split_address(address)
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(request)
        got = b""
        try:
            while True:
                got += await stream.receive()
        except anyio.EndOfStream:
            pass
    head, _, body = got.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_readiness_follows_reality_and_names_the_reason() -> None:
    """503 with the reasons as JSON while something is missing, 200 once nothing is."""
    reasons = {"audit-detection": "starting"}
    async with listening(reasons) as at:
        status, headers, body = await ask(at["health"], get("/readyz"))
        assert (status, headers["Content-Type"]) == (503, "application/json")
        assert msgspec.json.decode(body, type=Readiness) == Readiness(False, {"audit-detection": "starting"})
        reasons.clear()
        status, _, body = await ask(at["health"], get("/readyz"))
        assert (status, msgspec.json.decode(body, type=Readiness)) == (200, Readiness(True))
        assert (await ask(at["health"], get("/healthz")))[0] == 200


async def test_metrics_are_served_on_their_own_address() -> None:
    """The scrape shows the counters, and neither address serves the other's paths."""
    metrics = Metrics()
    metrics.count("ugallu_audit_file_lines_total", 3)
    async with listening({}, metrics, scrape="127.0.0.1:00") as at:
        status, headers, body = await ask(at["metrics"], get("/metrics"))
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert b"ugallu_audit_file_lines_total 3.0" in body
        assert (await ask(at["metrics"], get("/readyz")))[0] == 404
        assert (await ask(at["health"], get("/metrics")))[0] == 404


async def test_one_address_may_serve_both() -> None:
    """The same HOST:PORT for probes and metrics is one listener."""
    async with listening({}, scrape="127.0.0.1:0") as at:
        assert at["health"] == at["metrics"]
        assert (await ask(at["health"], get("/metrics?x=1")))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"nonsense\r\n\r\n", 400),
        (b"\xff\xfe\x00 \xff \xff\r\n\r\n", 400),
        (b"GET /" + b"a" * (HEAD_BYTES + 1), 431),
    ],
)
async def test_a_rude_client_gets_an_answer_and_harms_nobody(request_bytes: bytes, status: int) -> None:
    """Bad requests are answered with their own status; the next client is served as ever."""
    async with listening({}) as at:
        assert (await ask(at["health"], request_bytes))[0] == status
        assert (await ask(at["health"], get("/healthz")))[0] == 200


async def test_a_head_request_has_no_body() -> None:
    """HEAD tells the length and sends nothing."""
    async with listening({}) as at:
        status, headers, body = await ask(at["health"], b"HEAD /healthz HTTP/1.1\r\n\r\n")
        assert (status, headers["Content-Length"], body) == (200, "3", b"")


async def test_a_client_that_hangs_up_is_forgotten() -> None:
    """Connections that end early leave the server standing."""
    async with listening({}) as at:
        for _ in range(40):
            stream = await anyio.connect_tcp(*split_address(at["health"]))
            await stream.send(b"GET /heal")
            await stream.aclose()
        assert (await ask(at["health"], get("/healthz")))[0] == 200


async def test_a_taken_address_is_refused_with_what_to_do() -> None:
    """Two processes on one port: the second one says which address and how to change it."""
    async with listening({}) as at:
        probes = Probes(Metrics(), dict)
        with pytest.raises(BaseExceptionGroup) as caught:
            await serve(probes, health=at["health"], metrics="", log=LOG)
        assert caught.group_contains(PermanentError, match=f"cannot listen on {at['health']}.*choose another")


async def test_an_empty_address_listens_to_nothing() -> None:
    """`--health-address ''` switches the endpoint off."""
    async with listening({}, health="") as at:
        assert at == {}


@pytest.mark.parametrize(
    ("text", "means"),
    [("127.0.0.1:8081", ("127.0.0.1", 8081)), (":8081", ("", 8081)), ("[::1]:80", ("::1", 80))],
)
def test_addresses_are_host_and_port(text: str, means: tuple[str, int]) -> None:
    """HOST:PORT, :PORT and [V6]:PORT."""
    assert split_address(text) == means


@pytest.mark.parametrize("text", ["8081", "host:", "host:port", "host:99999", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """A bad address is a user's error, said as one."""
    with pytest.raises(PermanentError, match="HOST:PORT"):
        split_address(text)
