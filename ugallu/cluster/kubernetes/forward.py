"""One HTTP answer of a port inside a Pod, the way `kubectl port-forward` goes: no network policy stands in it.

Source of the protocol: `k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`. A binary message is one byte of
channel and then data: 0 what the port says, 1 why it cannot be reached; each channel begins with the port, two bytes.
"""

import contextlib
from typing import Final

import aiohttp
import anyio

from ugallu.cluster.kubernetes.exec import POD, V4
from ugallu.cluster.kubernetes.http import Call, Lane, Socket, Transport
from ugallu.cluster.kubernetes.paths import item
from ugallu.cluster.pods import Target
from ugallu.cluster.port import InvalidError, UnavailableError

_DATA, _ERROR = 0, 1
WITHIN: Final = 15.0
"""Seconds from the first byte asked to the last one answered."""


async def fetch(transport: Transport, target: Target, port: int, path: str, *, limit: int) -> bytes:
    """Return the body that a plain HTTP server in the Pod has at a path.

    Raises `UnavailableError` when nobody listens there or it takes too long, `InvalidError` for another status than
    200 and for an answer of more than `limit` bytes.
    """
    where = f"pods/{target.namespace}/{target.pod}:{port}{path}"
    way = f"{item(POD, target.namespace, target.pod, 'portforward')}?ports={port}"
    call = Call("portforward", "GET", way, where=where, lane=Lane.WATCHES)
    asked = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("ascii")
    try:
        with anyio.fail_after(WITHIN):
            async with transport.websocket(call, (V4,)) as socket:
                # Where nobody listens the other side says so and closes, perhaps before we have asked.
                with contextlib.suppress(ConnectionError):
                    await socket.send_bytes(bytes((_DATA,)) + asked)
                answer = await _answer(socket, limit, where)
    except TimeoutError as error:
        raise UnavailableError(f"no answer within {WITHIN:g} s", where=where) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(str(error) or "the connection is gone", where=where) from error
    return body_of(answer, where)


async def _answer(socket: Socket, limit: int, where: str) -> bytes:
    """Read until the port has said everything."""
    said: dict[int, bytearray] = {_DATA: bytearray(), _ERROR: bytearray()}
    while True:
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            break
        channel, data = message.data[:1], message.data[1:]
        if channel and channel[0] in said:
            said[channel[0]] += data
        if len(said[_DATA]) > limit:
            raise InvalidError(f"the answer is longer than {limit} bytes", where=where)
        if len(said[_ERROR]) > 2:
            break
    if len(said[_ERROR]) > 2:
        raise UnavailableError(bytes(said[_ERROR][2:502]).decode(errors="replace").strip(), where=where)
    return bytes(said[_DATA][2:])


def body_of(answer: bytes, where: str) -> bytes:
    """Return the body of an HTTP answer that ends with its connection."""
    head, end, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if not end or len(status) < 2 or not status[0].startswith(b"HTTP/1."):
        raise UnavailableError("what answers speaks no HTTP", where=where)
    if status[1] != b"200":
        raise InvalidError(f"answered with {status[1][:8].decode(errors='replace')}", where=where)
    return body
