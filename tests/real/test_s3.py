"""The S3 store before a real service that enforces object locks.

`UGALLU_S3=minio pytest tests/real/test_s3.py` asks another one; docs/evidence.md has a table of what each of them did.
"""

import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
import pytest_asyncio

from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from ugallu.api.platform import EncryptionConfig, EncryptionMode, MultipartConfig, ObjectLockMode, WORMConfigSpec
from ugallu.clock import Clock, SystemClock
from ugallu.errors import RefusedError
from ugallu.evidence.ports import CredentialsError, Lock, UnprovenError
from ugallu.evidence.stores.s3 import S3Store, open_store
from ugallu.evidence.stores.s3_client import Keys, S3Client
from ugallu.settings import Secret
from ugallu.testing.contracts.evidence import DAY, Passing, StoreContract

pytestmark = pytest.mark.real

Opened = Callable[..., Awaitable[S3Store]]


async def credentials() -> Keys:
    return Keys(Secret(ACCESS_KEY), Secret(SECRET_KEY))


@pytest.fixture
def clock() -> Clock:
    return SystemClock()


@pytest_asyncio.fixture
async def opened(s3: S3Server, clock: Clock) -> AsyncIterator[Opened]:
    """Return a function that makes a bucket and opens the store in it."""
    stores: list[S3Store] = []

    async def open_one(*, lock: bool = True, **spec: object) -> S3Store:
        asked = {"endpoint": s3.endpoint, "bucket": s3.name(), "encryption": EncryptionConfig(mode=EncryptionMode.NONE)}
        store = open_store(WORMConfigSpec(**{**asked, **spec}), credentials, clock)  # type: ignore[arg-type]
        stores.append(store)
        await client_of(store)._call(
            "create_bucket", "", Bucket=store._bucket, **({"ObjectLockEnabledForBucket": True} if lock else {})
        )
        return store

    yield open_one
    for store in stores:
        await store.aclose()


def client_of(store: S3Store) -> S3Client:
    return store._client


class TestS3Store(StoreContract):
    @pytest_asyncio.fixture
    async def store(self, opened: Opened) -> S3Store:
        return await opened()

    @pytest.fixture
    def term(self) -> dt.timedelta:
        return dt.timedelta(seconds=2)

    @pytest.fixture
    def passing(self) -> Passing:
        async def wait(span: dt.timedelta) -> None:
            await anyio.sleep(span.total_seconds())  # the service's own clock: nobody can move it

        return wait

    async def test_its_lock_is_that_of_the_service(self, store: S3Store) -> None:
        """The service proves with a canary that it neither shortens nor deletes."""
        await store.prove()
        assert store.lock is Lock.STORE


async def test_a_bucket_without_object_lock_is_refused(opened: Opened, clock: Clock) -> None:
    """Nothing is stored as evidence where nothing is locked, and the error says so."""
    store = await opened(lock=False)
    with pytest.raises(UnprovenError, match="object lock is off"):
        await store.put("a", b"x", media_type="text/plain", until=clock.now() + DAY)
    assert await store.stat("a") is None
    assert store.lock is Lock.PROCESS


async def test_an_unlocked_store_is_named_so(opened: Opened, clock: Clock) -> None:
    """A store that is asked for no locks stores, keeps dates by itself, and claims no lock."""
    store = await opened(lock=False, object_lock_mode=ObjectLockMode.NONE)
    stored = await store.put("a", b"x", media_type="text/plain", until=clock.now() + DAY)
    assert stored.lock is Lock.PROCESS
    with pytest.raises(RefusedError):
        await store.drop("a")


async def test_governance_is_named_for_what_it_is(opened: Opened) -> None:
    """Locks that some may bypass are not called the store's own."""
    store = await opened(object_lock_mode=ObjectLockMode.GOVERNANCE)
    await store.prove()
    assert store.lock is Lock.RIGHTS


async def test_encryption_that_is_asked_for_is_there_or_refused(opened: Opened, s3: S3Server) -> None:
    """versitygw takes the header and ignores it: the canary notices. Others encrypt, and show it."""
    store = await opened(encryption=EncryptionConfig(mode=EncryptionMode.SSE_S3))
    if s3.kind.program.name == "versitygw":
        with pytest.raises(UnprovenError, match="encrypts with nothing"):
            await store.prove()
    else:
        await store.prove()


async def test_large_content_goes_in_locked_parts(opened: Opened, clock: Clock) -> None:
    """Above the threshold content is sent in parts, created once, locked as a whole, and read back the same."""
    store = await opened(multipart=MultipartConfig(threshold="5Mi", chunk_size="5Mi"))
    content = bytes(range(256)) * (45 << 10)
    until = clock.now() + DAY
    stored = await store.put("large", content, media_type="application/x-tar", until=until)
    assert (await store.put("large", content, media_type="application/x-tar", until=until)).sha256 == stored.sha256
    found, read = await store.read("large")
    assert hashlib.sha256(read).digest() == hashlib.sha256(content).digest()
    assert found.lock is Lock.STORE
    with pytest.raises(RefusedError):
        await client_of(store).remove(store._bucket, "large", (await store._kept("large")).version)


async def test_evidence_shines_through_what_was_put_over_it(opened: Opened, clock: Clock) -> None:
    """Whoever deletes a key leaves a marker over the locked version, and the version is found below it."""
    store = await opened()
    await store.put("a", b"evidence", media_type="text/plain", until=clock.now() + DAY)
    await client_of(store).remove(store._bucket, "a")
    assert await store.get("a") == b"evidence"
    with pytest.raises(RefusedError):
        await store.drop("a")


async def test_what_is_put_over_evidence_is_not_evidence(opened: Opened, clock: Clock) -> None:
    """Whoever may write makes a newer version with metadata of his own: read, held and extended is the first one."""
    store = await opened()
    await store.put("a", b"evidence", media_type="text/plain", until=clock.now() + DAY)
    forged = {"sha256": hashlib.sha256(b"other").hexdigest()}
    over = await client_of(store).put(store._bucket, "a", b"other", media_type="text/plain", metadata=forged)
    store._evidence.clear()  # as a process that did not write it
    assert await store.get("a") == b"evidence"
    assert (await store.hold("a", on=True)).held
    await store.extend("a", clock.now() + 2 * DAY)
    found = await client_of(store).head(store._bucket, "a", over)
    assert (found.held, found.lasting) == (False, None)
    await store.hold("a", on=False)


async def test_drafts_leave_nothing_behind(opened: Opened, s3: S3Server, clock: Clock) -> None:
    """A draft that was replaced is dropped with all versions, by this process and by the next one."""
    store = await opened()
    again = open_store(
        WORMConfigSpec(
            endpoint=s3.endpoint, bucket=store._bucket, encryption=EncryptionConfig(mode=EncryptionMode.NONE)
        ),
        credentials,
        clock,
    )
    for dropper in (store, again):
        for content in (b"one", b"two", b"three"):
            await store.put("staging/a", content, media_type="text/plain", until=None)
        await dropper.drop("staging/a")
        assert [one async for one in client_of(store).versions(store._bucket, "staging/")] == []
    await again.aclose()


async def test_wrong_credentials_are_named(s3: S3Server, clock: Clock) -> None:
    """A key that the service does not know is an error of credentials, and no secret is in it."""

    async def wrong() -> Keys:
        return Keys(Secret("nobody"), Secret("hidden-word"))

    spec = WORMConfigSpec(
        endpoint=s3.endpoint, bucket="evidence", encryption=EncryptionConfig(mode=EncryptionMode.NONE)
    )
    store = open_store(spec, wrong, clock)
    with pytest.raises(CredentialsError) as caught:
        await store.put("a", b"x", media_type="text/plain", until=clock.now() + DAY)
    await store.aclose()
    assert "hidden-word" not in str(caught.value) + repr(store) + repr(client_of(store))
