"""The S3 store against a service that breaks its promises, is busy, torn, full, or does not know us."""

import datetime as dt
import hashlib
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ugallu.api.platform import EncryptionConfig, EncryptionMode, MultipartConfig, WORMBackend, WORMConfigSpec
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence.ports import CredentialsError, FullError, IntegrityError, Lock, UnprovenError
from ugallu.evidence.stores.s3 import COUNTS, PAUSE, RENEW, S3Store, from_folder, open_store
from ugallu.evidence.stores.s3_canary import Promise
from ugallu.evidence.stores.s3_client import TRIES, Encryption, Endpoint, Keys, Parts, S3Client
from ugallu.settings import Secret
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.evidence import DAY
from ugallu.testing.s3 import ACCESS, SECRET, Breaks, FakeS3, Reply, Request, error

COMPLIANCE = Promise("COMPLIANCE", Encryption("AES256"))


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeS3]:
    async with FakeS3(SystemClock()).serving() as serving:
        serving.bucket("evidence")
        yield serving


@pytest_asyncio.fixture
async def client(fake: FakeS3) -> AsyncIterator[S3Client]:
    opened = S3Client(
        Endpoint(url=fake.url), fake.credentials, fake.clock, parts=Parts(6 << 20, 5 << 20, 2), seconds=2, first_wait=0
    )
    yield opened
    await opened.aclose()


@pytest.fixture
def store(fake: FakeS3, client: S3Client) -> S3Store:
    return S3Store(client, "evidence", COMPLIANCE, fake.clock)


async def put(store: S3Store, key: str = "a", content: bytes = b"x") -> None:
    await store.put(key, content, media_type="text/plain", until=store._clock.now() + DAY)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (Breaks(locks=True), "lets a lock be shortened"),
        (Breaks(bypass=True), "lets a lock be shortened, when asked to pass by its lock"),
        (Breaks(lock_headers=True), "takes lock headers and ignores them"),
        (Breaks(conditions=True), "writes over what was to be created once"),
        (Breaks(encryption=True), "asked to encrypt with AES256, it encrypts with nothing"),
        (Breaks(versions=True), "versioning is off"),
        (Breaks(deletes=True), "what is not locked cannot be deleted"),
        (Breaks(content=True), "gives back other bytes"),
    ],
)
async def test_a_broken_promise_is_named_and_nothing_is_stored(
    fake: FakeS3, store: S3Store, breaks: Breaks, said: str
) -> None:
    """W2, W3, W4: a service that takes a header and ignores it is found out before the first evidence, and says Locked of none."""
    fake.breaks = breaks
    with pytest.raises(UnprovenError, match=said):
        await put(store, "evidence/one")
    assert not [key for key in fake.buckets["evidence"] if key.startswith("evidence/")]
    assert store.lock is Lock.PROCESS


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_refusal_that_is_none_is_found_out(fake: FakeS3, store: S3Store, method: str) -> None:
    """A service that answers "denied", and shortens or deletes all the same, has proven nothing."""
    fake.breaks.locks = True

    def deny(request: Request, reply: Reply) -> Reply:
        hit = "retention" in request.query or (request.method == "DELETE" and not request.key.endswith(".free"))
        return error(403, "AccessDenied", "denied") if hit else reply

    fake.after = deny
    if method == "DELETE":
        fake.fault = lambda request: error(403, "AccessDenied", "denied") if "retention" in request.query else None
    with pytest.raises(UnprovenError, match="and says that it does not"):
        await put(store)


async def test_a_lock_that_is_lost_later_stops_everything(fake: FakeS3, store: S3Store) -> None:
    """W2: the proof is renewed; once it fails, nothing more is stored as evidence."""
    await put(store, "a")
    fake.breaks.locks = True
    with pytest.raises(UnprovenError):
        await store.prove()
    with pytest.raises(UnprovenError):
        await put(store, "b")
    assert "b" not in fake.buckets["evidence"]


async def test_an_outage_does_not_unmake_the_proof(fake: FakeS3, store: S3Store) -> None:
    """That a service is away says nothing of its locks."""
    await store.prove()
    fake.fault = lambda _: error(503, "SlowDown", "busy")
    with pytest.raises(TransientError):
        await store.prove()
    assert store.lock is Lock.STORE


async def test_a_proof_that_cannot_be_renewed_counts_for_some_hours(fake: FakeS3, client: S3Client) -> None:
    """A service that is busy for canaries alone is believed for a while, and then neither stored to nor called locked."""
    clock = ManualClock()
    store = S3Store(client, "evidence", COMPLIANCE, clock)
    fake.clock = clock
    await store.prove()
    fake.fault = lambda request: error(503, "SlowDown", "busy") if "canary" in str(request) else None
    await clock.advance(2 * RENEW)
    await put(store, "a")
    locks = [store.lock]
    await clock.advance(COUNTS)
    assert [*locks, store.lock] == [Lock.STORE, Lock.PROCESS]
    with pytest.raises(TransientError):
        await put(store, "b")
    assert "b" not in fake.buckets["evidence"]


async def test_a_failed_proof_is_remembered_for_a_while(fake: FakeS3, client: S3Client) -> None:
    """Puts that come while the bucket is known not to keep its promise leave no canaries; a minute later it is asked again."""
    clock = ManualClock()
    fake.clock = clock
    store = S3Store(client, "evidence", COMPLIANCE, clock)
    fake.breaks = Breaks(encryption=True)
    for number in range(20):
        with pytest.raises(UnprovenError, match="encrypts with nothing"):
            await put(store, str(number))
    assert len(fake.buckets["evidence"]) == 1
    fake.breaks = Breaks()
    await clock.advance(PAUSE)
    await put(store)


async def test_what_was_put_over_evidence_is_not_evidence(fake: FakeS3, client: S3Client, store: S3Store) -> None:
    """Reading, holding and extending are about the version that was created, whoever reads, whatever lies over it."""
    await put(store, content=b"evidence")
    forged = {"sha256": hashlib.sha256(b"other").hexdigest()}
    await client.put("evidence", "a", b"other", media_type="text/plain", metadata=forged)
    until = (fake.clock.now() + 9 * DAY).replace(microsecond=0)
    for reader in (store, S3Store(client, "evidence", COMPLIANCE, fake.clock)):
        assert await reader.get("a") == b"evidence"
        found = await reader.stat("a")
        assert found is not None
        assert found.sha256.endswith(hashlib.sha256(b"evidence").hexdigest())
        await reader.hold("a", on=True)
        await reader.extend("a", until)
    evidence, other = fake.buckets["evidence"]["a"]
    assert (evidence.hold, evidence.until) == (True, until)
    assert (other.hold, other.until) == (False, None)


async def test_an_object_is_called_locked_as_its_own_lock_says(fake: FakeS3, client: S3Client, store: S3Store) -> None:
    """What was there already under a weaker lock than the bucket has proven keeps that, and is named so."""
    weaker = S3Store(client, "evidence", Promise("GOVERNANCE"), fake.clock)
    await put(weaker, "a")
    stored = await store.put("a", b"x", media_type="text/plain", until=fake.clock.now() + 2 * DAY)
    assert (store.lock, stored.lock, (await store.read("a"))[0].lock) == (Lock.STORE, Lock.RIGHTS, Lock.RIGHTS)
    await put(store, "b")
    assert (await weaker.read("b"))[0].lock is Lock.RIGHTS


async def test_old_canaries_are_swept(fake: FakeS3, store: S3Store) -> None:
    """A proof removes what earlier ones left, once its lock has ended, and needs no list of its own."""
    for _ in range(5):
        await store.prove()
    for versions in fake.buckets["evidence"].values():
        for version in versions:
            version.until = fake.clock.now() - dt.timedelta(seconds=1)
    await store.prove()
    assert len(fake.buckets["evidence"]) == 1


@pytest.mark.parametrize(
    "reply",
    [
        error(503, "SlowDown", "busy"),
        error(429, "TooManyRequests", "busy", {"retry-after": "0"}),
        error(409, "ConditionalRequestConflict", "a race"),
        error(500, "InternalError", "oops"),
        error(400, "RequestTimeout", "slow"),
        Reply(502, b"<html>bad gateway</html>"),
        Reply(200, b"half an ans", cut=3),
    ],
)
async def test_what_passes_is_tried_again(fake: FakeS3, store: S3Store, reply: Reply) -> None:
    """409, 429, 5xx and torn answers cost a second try, and leave one version."""
    await store.prove()
    failing = 2

    def fault(request: Request) -> Reply | None:
        nonlocal failing
        if request.key == "a" and failing and request.method in ("PUT", "GET"):
            failing -= 1
            return reply
        return None

    fake.fault = fault
    await put(store)
    failing = 2
    assert await store.get("a") == b"x"
    assert len(fake.buckets["evidence"]["a"]) == 1


async def test_an_answer_that_was_lost_is_success(fake: FakeS3, store: S3Store) -> None:
    """What was stored before the connection broke is found to be the same, and stays the only version."""
    await store.prove()
    lost = True

    def lose(request: Request, reply: Reply) -> Reply:
        nonlocal lost
        if request.key == "a" and request.method == "PUT" and lost:
            lost = False
            return error(500, "InternalError", "it was stored, and the answer is lost")
        return reply

    fake.after = lose
    await put(store)
    assert len(fake.buckets["evidence"]["a"]) == 1
    assert await store.get("a") == b"x"


async def test_tries_have_a_budget(fake: FakeS3, store: S3Store) -> None:
    """A service that is down is asked a few times for the first calls, then once each: it is not made worse."""
    await store.prove()
    fake.fault = lambda _: error(503, "SlowDown", "busy")
    fake.requests.clear()
    for number in range(40):
        with pytest.raises(TransientError):
            await put(store, f"k{number}")
    assert len(fake.requests) < 40 + 30
    assert sum(request.key == "k0" for request in fake.requests) == TRIES


async def test_a_silent_service_is_given_up(fake: FakeS3) -> None:
    """A service that accepts and never answers costs the time-out, no more."""
    client = S3Client(Endpoint(url=fake.url), fake.credentials, fake.clock, seconds=0.2, first_wait=0)
    fake.fault = lambda _: Reply(silent=True)
    with pytest.raises(TransientError, match="no answer in time"):
        await client.get("evidence", "a")
    await client.aclose()


async def test_a_full_store_is_named(fake: FakeS3, store: S3Store) -> None:
    """W7: no room is an error of its own, and passes when there is some."""
    await store.prove()
    fake.capacity = 100
    with pytest.raises(FullError, match="make room"):
        await put(store, content=bytes(200))
    fake.capacity = None
    await put(store, content=bytes(200))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(400, "ExpiredToken", "The provided token has expired."), CredentialsError),
        (error(403, "SignatureDoesNotMatch", "no"), CredentialsError),
        (error(403, "AccessDenied", "no"), RefusedError),
        (error(403, "RequestTimeTooSkewed", "no"), RefusedError),
        (error(404, "NoSuchBucket", "no"), PermanentError),
        (error(501, "NotImplemented", "no"), PermanentError),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(
    fake: FakeS3, store: S3Store, reply: Reply, kind: type[Exception]
) -> None:
    """Rights, clocks and names need a person."""
    await store.prove()
    fake.fault = lambda _: reply
    fake.requests.clear()
    with pytest.raises(kind):
        await put(store)
    assert len(fake.requests) == 1


async def test_other_content_under_a_key_is_an_integrity_error(fake: FakeS3, store: S3Store) -> None:
    """W3: the second writer is told, and no second version is made."""
    await put(store, content=b"one")
    with pytest.raises(IntegrityError):
        await put(store, content=b"two")
    assert len(fake.buckets["evidence"]["a"]) == 1


async def test_changed_content_is_noticed_on_reading(fake: FakeS3, store: S3Store) -> None:
    """W8: what is read is compared with what was recorded."""
    await put(store, content=b"one")
    fake.buckets["evidence"]["a"][0].content = b"eno"
    with pytest.raises(IntegrityError):
        await store.get("a")


async def test_every_locked_upload_has_a_checksum_and_a_lock(fake: FakeS3, store: S3Store) -> None:
    """W4, W6: digest, encryption, lock and create-only are asked for on the wire, in whole seconds."""
    await store.prove()
    fake.requests.clear()
    await store.put("a", b"x", media_type="text/plain", until=dt.datetime(2099, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC))
    (request,) = fake.requests
    assert request.headers["x-amz-checksum-sha256"] == "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE="
    assert request.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert request.headers["x-amz-object-lock-retain-until-date"].startswith("2099-01-01T00:00:01")
    assert request.headers["x-amz-server-side-encryption"] == "AES256"
    assert request.headers["if-none-match"] == "*"


async def test_parts_are_created_once_and_forgotten_when_they_fail(fake: FakeS3, store: S3Store) -> None:
    """W5: large content goes in parts with the lock on their beginning; an upload that fails is given up, not left to be billed."""
    content = bytes(7 << 20)
    await put(store, "large", content)
    assert await store.get("large") == content
    (version,) = fake.buckets["evidence"]["large"]
    assert version.mode == "COMPLIANCE"
    await put(store, "large", content)
    assert len(fake.buckets["evidence"]["large"]) == 1
    with pytest.raises(IntegrityError):
        await put(store, "large", content[:-1])

    fake.fault = lambda request: error(403, "AccessDenied", "no") if request.query.get("partNumber") == "2" else None
    with pytest.raises(RefusedError):
        await put(store, "other", content)
    assert not fake.uploads
    assert "other" not in fake.buckets["evidence"]


async def test_holds_and_dates_that_are_ignored_are_noticed(fake: FakeS3, store: S3Store) -> None:
    """A hold or a later date counts once the service shows it."""
    await put(store)
    fake.breaks.locks = True
    with pytest.raises(UnprovenError, match="ignores them"):
        await store.hold("a", on=True)
    fake.fault = lambda request: Reply() if "retention" in request.query else None
    with pytest.raises(UnprovenError, match="does not"):
        await store.extend("a", fake.clock.now() + 9 * DAY)


async def test_credentials_are_replaced_live_and_shown_nowhere(
    fake: FakeS3, tmp_path: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A16, A17: files are read again, white space around them is none of them, and no log or error has what they hold."""
    caplog.set_level(logging.DEBUG)
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "access-key").write_text(f" {ACCESS}\n")
    (folder / "secret-key").write_text(f"{SECRET}\n")
    monkeypatch.setattr("ugallu.evidence.stores.s3_client.FRESH", -1.0)
    client = S3Client(Endpoint(url=fake.url), from_folder(folder), fake.clock, first_wait=0)
    store = S3Store(client, "evidence", COMPLIANCE, fake.clock)
    await put(store)
    fake.access = "renewed"
    with pytest.raises(CredentialsError) as caught:
        await put(store, "b")
    (folder / "access-key").write_text("renewed")
    await put(store, "b")
    await client.aclose()
    shown = caplog.text + str(caught.value) + repr(client) + repr(store) + repr(Keys(Secret(ACCESS), Secret(SECRET)))
    assert SECRET not in shown


async def test_a_config_is_followed_or_refused(fake: FakeS3) -> None:
    """A15, A17: region, prefix, parts and encryption of the config are used; what cannot be is named with its field."""
    sealed = open_store(
        WORMConfigSpec(
            endpoint=fake.url,
            bucket="evidence",
            region="eu-central-7",
            key_prefix="/attestations/",
            encryption=EncryptionConfig(mode=EncryptionMode.SSE_KMS, kms_key_id="key-1"),
        ),
        fake.credentials,
        fake.clock,
    )
    stored = await sealed.put("a", b"x", media_type="text/plain", until=fake.clock.now() + DAY)
    assert stored.url == "s3://evidence/attestations/a"
    assert sealed.key(stored.url) == "a"
    assert "/eu-central-7/s3/" in fake.requests[-1].headers["authorization"]
    assert fake.requests[-1].headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    await sealed.aclose()
    for url in ("s3://other/attestations/a", "file:///attestations/a", "s3://evidence/elsewhere/a"):
        with pytest.raises(PermanentError):
            sealed.key(url)
    for wrong, where in (
        (WORMConfigSpec(endpoint=fake.url, bucket=""), "bucket"),
        (WORMConfigSpec(endpoint="", bucket="b"), "endpoint"),
        (WORMConfigSpec(endpoint="e", bucket="b", multipart=MultipartConfig(chunk_size="1Mi")), "chunkSize"),
        (WORMConfigSpec(endpoint="e", bucket="b", key_prefix="../up"), "key"),
    ):
        with pytest.raises(PermanentError, match=where):
            open_store(wrong, fake.credentials, fake.clock)
    amazon = open_store(
        WORMConfigSpec(endpoint="", bucket="b", backend=WORMBackend.AWS_S3), fake.credentials, fake.clock
    )
    assert amazon.endpoint == "s3://b"
