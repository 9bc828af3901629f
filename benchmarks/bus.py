"""What the event bus costs: encoding, one consumer or many, events served over TLS to a reader in its own process.

    python -m benchmarks.bus [--events N]

Figures are events a CPU second of one core. Bodies are those of the recorded incident, with secrets taken out.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.lowlevel
import msgspec

from benchmarks.lines import rounds
from tests.rig.keys import Authority
from ugallu.api.audit import AuditRecord
from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, BusBodies
from ugallu.bus.events import METHOD, Encoder, Shape
from ugallu.bus.feed import Feed
from ugallu.bus.hub import Hub
from ugallu.clock import SystemClock
from ugallu.metrics import Metrics
from ugallu.net.rpc import PROTOCOL, connected, replies
from ugallu.net.tls import client_context
from ugallu.testing.relay import QUIET, TOKEN, Secrets, bus_settings, served
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb
from ugallu_audit_detection.redact import redacted, scrubbed

ENCODER = Encoder(redacted, scrubbed)
PLAIN = Encoder(lambda body, _: body, lambda text: text)
BATCH = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--read", nargs=4, metavar=("PORT", "CA", "TOKEN", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        port, ca, token, count = args.read
        anyio.run(read, int(port), Path(ca), token, int(count))
        return 0
    records = [msgspec.json.decode(line, type=AuditRecord) for line in rounds(2 * args.events)]
    events = [record for record in records if record.stage != "RequestReceived"][: args.events]
    bodies = sum(len(memoryview(record.request_object)) > 0 for record in events) / len(events)
    print(f"{len(events)} events, {bodies:.0%} with a request body")
    for name, encoder, shape in (
        ("encode, no bodies", ENCODER, Shape(BusBodies.NONE, 0)),
        ("encode, request bodies as they are", PLAIN, Shape(BusBodies.REQUEST, 1 << 20)),
        ("encode, request bodies without secrets", ENCODER, Shape(BusBodies.REQUEST, 1 << 20)),
    ):
        report(name, len(events), lambda e=encoder, s=shape: encode(e, s, events))  # type: ignore[misc]
    for consumers in (1, 8):
        report(f"offered to {consumers} consumers of one filter", len(events), lambda n=consumers: offer(n, events))  # type: ignore[misc]
    for bodies_wanted in (BusBodies.NONE, BusBodies.REQUEST):
        report_served(bodies_wanted, events)
    return 0


def report(name: str, count: int, act: Callable[[], None]) -> None:
    began = time.process_time()
    act()
    print(f"  {name}: {count / (time.process_time() - began):,.0f}/s", flush=True)


def encode(encoder: Encoder, shape: Shape, events: Sequence[AuditRecord]) -> None:
    for record in events:
        encoder.metadata(record) + encoder.bodies(record, shape)


def offer(consumers: int, events: Sequence[AuditRecord]) -> None:
    feed = Feed(ENCODER, SystemClock())
    feed.configure([AuditDetectionConsumer(name=str(n)) for n in range(consumers)])
    for at in range(0, len(events), BATCH):
        feed.offer(events[at : at + BATCH])


def report_served(bodies: BusBodies, events: Sequence[AuditRecord]) -> None:
    with TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = anyio.run(serve, Path(folder), bodies, events)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reader = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rates = f"{len(events) / spent:,.0f}/s of the server, {len(events) / reader:,.0f}/s of the reader"
    print(f"  served over TLS, bodies {bodies}: {rates}, its start included", flush=True)


async def serve(folder: Path, bodies: BusBodies, events: Sequence[AuditRecord]) -> float:
    """Serve these events to one reader; return the server's CPU seconds."""
    (folder / "keys").mkdir()
    authority = Authority(folder / "keys", "ca")
    pair = authority.issue("server", "server", hosts=("127.0.0.1",))
    secrets = Secrets(folder / "secrets", pair.certificate, pair.key, authority.pair.certificate)
    hub = Hub(redacted, scrubbed, secrets=secrets.folder, clock=SystemClock(), metrics=Metrics(), log=QUIET)
    consumer = AuditDetectionConsumer(name=TOKEN, filter=AuditDetectionConsumerFilter(bodies=bodies))
    async with served(hub, bus_settings(), [consumer]) as port:
        command = [
            sys.executable,
            "-m",
            "benchmarks.bus",
            "--read",
            str(port),
            str(secrets.ca),
            "s3cret",
            str(len(events)),
        ]
        reader = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=None)
        while not hub.streams:  # noqa: ASYNC110 - a process tells nobody
            await anyio.sleep(0.01)
        began = time.process_time()
        for at in range(0, len(events), BATCH):
            hub.offer(events[at : at + BATCH])
            await anyio.lowlevel.checkpoint()
        assert await reader.wait() == 0, "the reader did not get everything"
        return time.process_time() - began


async def read(port: int, ca: Path, token: str, count: int) -> None:
    """Read so many events, and end."""
    request = pb.SubscribeRequest(consumer_name=TOKEN)
    async with connected("127.0.0.1", port, tls=client_context(ca, protocol=PROTOCOL)) as channel:
        async for event in replies(channel, METHOD, request, pb.AuditEvent, token=token, limit=32 << 20):
            count -= 1 + event.dropped_before
            if count <= 0:
                return


if __name__ == "__main__":
    sys.exit(main())
