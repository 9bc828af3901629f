"""`JetStream`: a stream of audit events on NATS, which outlives every process that writes to it or reads it.

    source ─ batch ─ publish, all acknowledged ─ position of the source        writer
    reader ─ durable consumer ─ batch ─ ... checkpoint ─ acknowledge           reader

A message is an `AuditEvent` of the event bus, without secrets. Its id is source and number, so a batch that is written
again after a crash is stored once. What a reader has for good is acknowledged as far as its checkpoints reach, so that
a reader that lost its state, too, goes on from there. This is the one door to nats-py: import it where a bus is named.
"""

import base64
import binascii
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import msgspec
import nats
import nats.errors
import nats.js.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig

from ugallu.api.observation import Checkpoint
from ugallu.errors import PermanentError, TransientError, UgalluError, first_of
from ugallu.logs import Logger
from ugallu.net.bearer import read_token
from ugallu.net.tls import client_context
from ugallu.settings import NatsSettings

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

SUBJECT: Final = "ugallu"
"""Messages lie under it, by stream and source."""
POSITIONS: Final = "ugallu-positions"
"""Where each source goes on: a bucket of keys and values."""
DUPLICATE_SECONDS: Final = 600.0
FETCH: Final = 512
FETCH_SECONDS: Final = 5.0
ACK_SECONDS: Final = 10.0
_REDELIVER_SECONDS: Final = 3600.0
"""Nothing is delivered twice to a reader that lives; one that begins anew begins where its checkpoint is."""
_MARGIN: Final = 16 << 10
_LOST: Final = (nats.errors.Error, OSError, TimeoutError, ssl.SSLError)


class Stored(NamedTuple):
    """A message as it lies in the stream."""

    sequence: int
    data: bytes


class Origin(NamedTuple):
    """The stream itself: made anew, its numbers say nothing of the one before."""

    made: str
    first: int
    last: int


class JetStream:
    """One connection, while `opened` lasts."""

    def __init__(self, client: Client, settings: NatsSettings) -> None:
        self._client = client
        self._js = client.jetstream(timeout=ACK_SECONDS, publish_async_max_pending=4 * FETCH)
        self._settings = settings
        self._unacked: deque[tuple[int, Msg]] = deque()

    @property
    def max_bytes(self) -> int:
        """The most that one message may weigh, headers aside."""
        return max(0, self._client.max_payload - _MARGIN)

    # Writing

    async def append(self, source: str, messages: Sequence[tuple[int, bytes]]) -> None:
        """Store messages under their numbers; return when all are acknowledged. Raises `TransientError`."""
        subject = f"{SUBJECT}.{self._settings.stream}.{_token(source)}"
        with _translated("cannot store events"):
            with anyio.fail_after(ACK_SECONDS + len(messages) / 100):
                waiting = [
                    await self._js.publish_async(
                        subject,
                        message,
                        stream=self._settings.stream,
                        headers={"Nats-Msg-Id": f"{source}/{number}"},
                    )
                    for number, message in messages
                ]
                for acknowledged in waiting:
                    await acknowledged

    async def position(self, source: str) -> Checkpoint | None:
        """Return where a source goes on, None when it has never been written from."""
        with _translated("cannot read positions"):
            bucket = await self._positions()
            try:
                entry = await bucket.get(self._key(source))
            except nats.js.errors.KeyNotFoundError:
                return None
        if not entry.value:
            return None
        try:
            return msgspec.json.decode(entry.value, type=Checkpoint)
        except msgspec.DecodeError as error:
            raise PermanentError(
                "holds no position", where=f"bucket {POSITIONS}, key {self._key(source)}", fix="delete the key"
            ) from error

    async def moved(self, point: Checkpoint) -> None:
        """Note for good where a source goes on."""
        with _translated("cannot write positions"):
            bucket = await self._positions()
            await bucket.put(self._key(point.source), msgspec.json.encode(point))

    # Reading

    async def origin(self) -> Origin:
        """Return what the stream holds."""
        with _translated("cannot read the stream"):
            info = await self._js.stream_info(self._settings.stream)
        created = getattr(info, "created", None)
        # The first one of an empty stream is 0 or 1, by version.
        return Origin(str(created or ""), max(1, info.state.first_seq), info.state.last_seq)

    async def floor(self, reader: str) -> int:
        """Return up to which message a reader has acknowledged all, 0 for one that never was."""
        with _translated("cannot read the consumer"):
            try:
                info = await self._js.consumer_info(self._settings.stream, reader)
            except nats.js.errors.NotFoundError:
                return 0
        return info.ack_floor.stream_seq if info.ack_floor else 0

    async def read(self, reader: str, first: int) -> AsyncIterator[list[Stored]]:
        """Yield messages from a sequence on, as they come, in order and none twice; an empty list now and then."""
        self._unacked.clear()
        subscription = await self._begin(reader, first)
        next_ = first
        while True:
            with _translated("cannot read events"):
                try:
                    fetched = await subscription.fetch(FETCH, timeout=FETCH_SECONDS)
                except (nats.errors.TimeoutError, TimeoutError):
                    fetched = []
            fresh = [message for message in fetched if message.metadata.sequence.stream >= next_]
            if fresh:
                next_ = fresh[-1].metadata.sequence.stream + 1
                self._unacked.append((next_ - 1, fresh[-1]))
            yield [Stored(message.metadata.sequence.stream, message.data) for message in fresh]

    async def acknowledge(self, sequence: int) -> None:
        """Let go of everything up to a message that was read: its reader has it for good."""
        done: Msg | None = None
        while self._unacked and self._unacked[0][0] <= sequence:
            _, done = self._unacked.popleft()
        if done is not None:
            with _translated("cannot acknowledge"):
                await done.ack()

    async def _begin(self, reader: str, first: int) -> "JetStreamContext.PullSubscription":
        stream = self._settings.stream
        with _translated("cannot make the consumer"):
            # A consumer goes back by being made anew; until it is, its reader's checkpoint knows the place.
            with suppress(nats.js.errors.NotFoundError):
                await self._js.delete_consumer(stream, reader)
            await self._js.add_consumer(
                stream,
                ConsumerConfig(
                    durable_name=reader,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=max(1, first),
                    ack_policy=AckPolicy.ALL,
                    ack_wait=_REDELIVER_SECONDS,
                    max_ack_pending=-1,
                ),
            )
            return await self._js.pull_subscribe_bind(durable=reader, stream=stream)

    def _key(self, source: str) -> str:
        return f"{self._settings.stream}.{_token(source)}"

    async def _positions(self) -> Any:  # noqa: ANN401 - nats' own type is not typed further
        try:
            return await self._js.key_value(POSITIONS)
        except nats.js.errors.NotFoundError:
            return await self._js.create_key_value(bucket=POSITIONS, history=1)

    async def prepare(self) -> None:
        """Make the stream where there is none; one that somebody made is left as it is."""
        settings = self._settings
        with _translated("cannot make the stream"):
            try:
                await self._js.stream_info(settings.stream)
            except nats.js.errors.NotFoundError:
                await self._js.add_stream(
                    StreamConfig(
                        name=settings.stream,
                        subjects=[f"{SUBJECT}.{settings.stream}.>"],
                        max_bytes=settings.stream_bytes,
                        max_age=settings.stream_seconds,
                        discard=DiscardPolicy.OLD,
                        storage=StorageType.FILE,
                        duplicate_window=min(DUPLICATE_SECONDS, settings.stream_seconds),
                    )
                )


@asynccontextmanager
async def opened(settings: NatsSettings, log: Logger) -> AsyncIterator[JetStream]:
    """Connect, and lend the connection.

    Raises `TransientError` for a server that does not answer or let us in, `PermanentError` for files that cannot be
    used.
    """
    client = Client()
    gone = anyio.Event()

    async def failed(error: Exception) -> None:
        log.warning("nats", error=str(error) or type(error).__name__)

    async def closed() -> None:
        gone.set()

    options = _options(settings)
    with _translated("cannot connect", settings.shown):
        await client.connect(
            settings.url,
            name="ugallu",
            error_cb=failed,
            closed_cb=closed,
            # Whoever reads or writes begins anew, from what is known for good.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=1,
            connect_timeout=5,
            ping_interval=20,
            max_outstanding_pings=2,
            **options,
        )
    try:
        stream = JetStream(client, settings)
        await stream.prepare()
        async with anyio.create_task_group() as tg:
            tg.start_soon(_guard, gone, settings.shown)
            yield stream
            tg.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        ours, rest = group.split(UgalluError)
        if ours is None or rest is not None:
            raise
        raise first_of(ours) from group
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
            await client.close()


async def _guard(gone: anyio.Event, where: str) -> None:
    """End what is under way when the connection does: nats-py lets it wait for its time-out."""
    await gone.wait()
    raise TransientError("the connection is lost", where=where, fix="see that NATS runs")


def _options(settings: NatsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if not settings.plaintext:
        paths = (Path(text) if text else None for text in (settings.ca, settings.tls_cert, settings.tls_key))
        options["tls"] = client_context(*paths)
    if settings.token_file:
        options["token"] = read_token(Path(settings.token_file))
    if settings.credentials:
        jwt, key = _credentials(Path(settings.credentials))
        options["user_jwt_cb"] = lambda: bytearray(jwt)
        options["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
    return options


def _credentials(path: Path) -> tuple[bytes, Ed25519PrivateKey]:
    """Return token and key of a `.creds` file as NATS writes it.

    A seed is base32 of two bytes of kind, 32 of the seed itself, two of CRC-16 (https://docs.nats.io, NKeys).
    """
    wrong = PermanentError("holds no NATS credentials", where=str(path), fix="give the .creds file of a user")
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise wrong from error
    inside = [lines[at + 1].strip() for at, line in enumerate(lines[:-1]) if line.startswith("-----BEGIN")]
    if len(inside) < 2:
        raise wrong
    try:
        seed = base64.b32decode(inside[1] + "=" * (-len(inside[1]) % 8))
    except (binascii.Error, ValueError) as error:
        raise wrong from error
    if len(seed) != 36 or binascii.crc_hqx(seed[:-2], 0) != int.from_bytes(seed[-2:], "little"):
        raise wrong
    return inside[0].encode(), Ed25519PrivateKey.from_private_bytes(seed[2:34])


def _token(source: str) -> str:
    """Return a source's name as one token of a subject, different for different names."""
    plain = "".join(each if each.isalnum() or each in "-_" else "-" for each in source)
    return plain if plain == source else f"{plain}-{binascii.crc32(source.encode()):08x}"


class _translated:  # noqa: N801 - used as a function
    """Turns what nats-py raises into what the house knows."""

    def __init__(self, what: str, where: str = "nats") -> None:
        self._what = what
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UgalluError) or not isinstance(error, _LOST):
            return
        why = getattr(error, "description", None) or str(error) or type(error).__name__
        raise TransientError(
            f"{self._what}: {why}", where=self._where, fix="see that NATS runs and lets us in"
        ) from error
