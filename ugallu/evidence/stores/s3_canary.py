"""The proof that a bucket keeps what it is given: by trying to break it, never by what its settings say alone.

Some services take lock and encryption headers and ignore them, and answer as if they had not. So a small object is
written as evidence would be, and then everything is tried that must be refused: to write it again, to shorten its
lock, to delete its version, and both with the header that passes by weaker locks. An object without a lock is deleted
first, or a missing right would look like a lock.
"""

import datetime as dt
import secrets
from collections.abc import Awaitable
from typing import Final

import msgspec

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, UgalluError
from ugallu.evidence.ports import UnprovenError
from ugallu.evidence.stores.s3_client import Encryption, Exists, Found, Lasting, Missing, S3Client

LOCKED: Final = dt.timedelta(minutes=10)
"""How long a canary lasts. Clocks may differ by half of it, and the proof is done well before."""
CONTENT: Final = b"ugallu writes this to see whether it is kept\n"
FOLDER: Final = "canary/"
MOST_SWEPT: Final = 100


class Promise(msgspec.Struct, frozen=True):
    """What a store is to prove: its lock mode (`COMPLIANCE`, `GOVERNANCE`, or `NONE`) and its encryption."""

    mode: str
    encryption: Encryption = Encryption()


async def prove(client: S3Client, bucket: str, prefix: str, promise: Promise, clock: Clock) -> None:
    """Return if the bucket keeps its promise; raises `UnprovenError` with what it does not do.

    Errors of the way there (`TransientError`, `CredentialsError`) say nothing about the bucket; they are raised as is.
    """
    folder = f"{prefix}{FOLDER}"
    locked = promise.mode != "NONE"
    if locked and not await client.lock_enabled(bucket):
        raise _unproven(bucket, "object lock is off", "make another bucket, with object lock from the start")
    if locked and not await client.versioned(bucket):
        raise _unproven(bucket, "versioning is off", "switch it on")
    await _sweep(client, bucket, folder)
    key = f"{folder}{secrets.token_hex(16)}"
    await _deletes(client, bucket, f"{key}.free", promise)
    until = (clock.now() + LOCKED).replace(microsecond=0)
    lasting = Lasting(promise.mode, until) if locked else None
    version = await client.put(
        bucket,
        key,
        CONTENT,
        media_type="text/plain",
        metadata={},
        lasting=lasting,
        encryption=promise.encryption,
        create=True,
    )
    _, content = await client.get(bucket, key)
    found = await client.head(bucket, key)
    if content != CONTENT:
        raise _unproven(bucket, "it gives back other bytes than it was given", _OTHER)
    _encrypts(bucket, found.encryption, promise.encryption)
    await _creates_once(client, bucket, key)
    if lasting is None:
        await client.remove(bucket, key, version)
        return
    _locks(bucket, found, version, lasting)
    sooner = Lasting(promise.mode, until - LOCKED / 2)
    # Some may pass by GOVERNANCE, and we may be among them; by COMPLIANCE nobody may.
    for bypass, how in ((False, ""), (True, ", when asked to pass by its lock"))[: 1 + (promise.mode == "COMPLIANCE")]:
        if not await _refuses(client.retain(bucket, key, version, sooner, bypass=bypass)):
            raise _unproven(bucket, f"it lets a lock be shortened{how}", _OTHER)
        if not await _refuses(client.remove(bucket, key, version, bypass=bypass)):
            raise _unproven(bucket, f"it deletes what is locked{how}", _OTHER)
    # A service may answer with an error and do it all the same.
    try:
        found = await client.head(bucket, key, version)
    except Missing as error:
        raise _unproven(bucket, "it deletes what is locked, and says that it does not", _OTHER) from error
    if found.lasting is None or found.lasting.until < until:
        raise _unproven(bucket, "it shortens locks, and says that it does not", _OTHER)


_OTHER: Final = "evidence needs a store that enforces object locks; see docs/evidence.md"


async def _deletes(client: S3Client, bucket: str, key: str, promise: Promise) -> None:
    """Prove that we may delete what is not locked: drafts must go, and refusals must be the lock's."""
    version = await client.put(
        bucket, key, CONTENT, media_type="text/plain", metadata={}, encryption=promise.encryption
    )
    try:
        await client.remove(bucket, key, version)
    except RefusedError as error:
        raise _unproven(
            bucket,
            f"what is not locked cannot be deleted ({error.what})",
            "grant s3:DeleteObject and s3:DeleteObjectVersion, and take default retention off the bucket",
        ) from error


async def _creates_once(client: S3Client, bucket: str, key: str) -> None:
    try:
        await client.put(bucket, key, CONTENT, media_type="text/plain", metadata={}, create=True)
    except Exists:
        return
    raise _unproven(bucket, "it writes over what was to be created once (If-None-Match)", _OTHER)


async def _refuses(call: Awaitable[None]) -> bool:
    """Tell whether the service refuses; an error of the way there is raised."""
    try:
        await call
    except (RefusedError, PermanentError) as error:
        if type(error) in (RefusedError, PermanentError):
            return True
        raise
    return False


def _encrypts(bucket: str, found: Encryption, asked: Encryption) -> None:
    if asked.algorithm and found.algorithm != asked.algorithm:
        raise _unproven(
            bucket,
            f"asked to encrypt with {asked.algorithm}, it encrypts with {found.algorithm or 'nothing'}",
            "set spec.encryption.mode to what the store does; none, where its disks are encrypted",
        )
    if asked.key and asked.key not in found.key:
        raise _unproven(bucket, "it encrypts under another key than the one named", "correct spec.encryption.kmsKeyID")


def _locks(bucket: str, found: Found, version: str, asked: Lasting) -> None:
    if not version or found.version != version:
        raise _unproven(bucket, "it gives no version ids", "switch versioning on")
    if found.lasting is None or found.lasting.mode != asked.mode:
        raise _unproven(bucket, "it takes lock headers and ignores them", _OTHER)
    if found.lasting.until < asked.until:
        raise _unproven(bucket, "it locks for less long than asked", _OTHER)


async def _sweep(client: S3Client, bucket: str, folder: str) -> None:
    """Remove canaries of earlier proofs whose lock has ended."""
    swept = 0
    async for version in client.versions(bucket, folder):
        try:
            await client.remove(bucket, version.key, version.id)
        except RefusedError:
            continue  # locked still
        except UgalluError:
            return  # for the next one
        swept += 1
        if swept == MOST_SWEPT:
            return


def _unproven(bucket: str, what: str, fix: str) -> UnprovenError:
    return UnprovenError(what, where=f"bucket {bucket}", fix=fix)
