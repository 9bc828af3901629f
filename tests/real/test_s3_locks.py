"""What an S3 server really enforces, asked plainly, call by call: the table in docs/evidence.md is what this compares with.

`UGALLU_S3=minio pytest tests/real/test_s3_locks.py` asks another server.
"""

import datetime as dt
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from ugallu.clock import SystemClock
from ugallu.evidence.stores.s3_client import Endpoint, Keys, S3Client
from ugallu.settings import Secret

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
HEAD = "| Asked plainly (`tests/real/test_s3_locks.py`)"
CONTENT = b"evidence"
SUM = b64encode(hashlib.sha256(CONTENT).digest()).decode()


def expected(server: str) -> dict[str, str]:
    """Return what the page says of a server, by question."""
    lines = PAGE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(HEAD))
    names = [cell.strip() for cell in lines[start].strip("|").split("|")]
    column = next(number for number, name in enumerate(names) if name.lower().startswith(server))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        found[cells[0]] = cells[column]
    return found


class Asker:
    """A bucket with object lock, and a client that hides nothing."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket

    async def does(self, verb: str, key: str = "", **more: Any) -> dict[str, Any]:
        where = {"Bucket": self.bucket} | ({"Key": key} if key else {})
        answer: dict[str, Any] = await getattr(self.client, verb)(**where, **more)
        return answer

    async def lets(self, verb: str, key: str = "", **more: Any) -> str:
        """Return what comes of a call."""
        try:
            await self.does(verb, key, **more)
        except ClientError:
            return "refused"
        return "allowed"

    async def put(self, key: str, mode: str = "", *, days: float = 1.0, **more: Any) -> str:
        """Store something, locked in a mode; returns its version."""
        lock = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": later(days)} if mode else {}
        return str((await self.does("put_object", key, Body=CONTENT, ChecksumSHA256=SUM, **lock, **more))["VersionId"])

    async def retains(self, key: str, mode: str, days: float, **more: Any) -> str:
        lock = {"Mode": mode, "RetainUntilDate": later(days)}
        return await self.lets("put_object_retention", key, Retention=lock, **more)


def later(days: float) -> dt.datetime:
    return (SystemClock().now() + dt.timedelta(days=days)).replace(microsecond=0)


@pytest_asyncio.fixture
async def asker(s3: S3Server) -> AsyncIterator[Asker]:
    async def credentials() -> Keys:
        return Keys(Secret(ACCESS_KEY), Secret(SECRET_KEY))

    door = S3Client(Endpoint(url=s3.endpoint), credentials, SystemClock())
    made = Asker(await door._open(), s3.name())
    await made.does("create_bucket", ObjectLockEnabledForBucket=True)
    yield made
    await door.aclose()


async def _shorten(at: Asker) -> str:
    await at.put("a", "COMPLIANCE", days=2)
    return await at.retains("a", "COMPLIANCE", 1)


async def _shorten_with_bypass(at: Asker) -> str:
    await at.put("a", "COMPLIANCE", days=2)
    return await at.retains("a", "COMPLIANCE", 1, BypassGovernanceRetention=True)


async def _weaken(at: Asker) -> str:
    await at.put("a", "COMPLIANCE", days=2)
    return await at.retains("a", "GOVERNANCE", 2)


async def _extend(at: Asker) -> str:
    await at.put("a", "COMPLIANCE")
    return await at.retains("a", "COMPLIANCE", 2)


async def _delete(at: Asker) -> str:
    return await at.lets("delete_object", "a", VersionId=await at.put("a", "COMPLIANCE"))


async def _delete_with_bypass(at: Asker) -> str:
    version = await at.put("a", "COMPLIANCE")
    return await at.lets("delete_object", "a", VersionId=version, BypassGovernanceRetention=True)


async def _governance(at: Asker) -> str:
    return await at.lets("delete_object", "a", VersionId=await at.put("a", "GOVERNANCE"))


async def _governance_with_bypass(at: Asker) -> str:
    version = await at.put("a", "GOVERNANCE")
    return await at.lets("delete_object", "a", VersionId=version, BypassGovernanceRetention=True)


async def _held(at: Asker) -> str:
    return await at.lets("delete_object", "a", VersionId=await at.put("a", ObjectLockLegalHoldStatus="ON"))


async def _drop_bucket(at: Asker) -> str:
    await at.put("a", "COMPLIANCE")
    return await at.lets("delete_bucket")


async def _suspend(at: Asker) -> str:
    return await at.lets("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"})


async def _once(at: Asker) -> str:
    await at.put("a")
    return await at.lets("put_object", "a", Body=CONTENT, IfNoneMatch="*")


async def _over_marker(at: Asker) -> str:
    await at.put("a")
    await at.does("delete_object", "a")
    return await at.lets("put_object", "a", Body=CONTENT, IfNoneMatch="*")


async def _wrong_checksum(at: Asker) -> str:
    return await at.lets("put_object", "a", Body=b"other bytes", ChecksumSHA256=SUM)


async def _no_checksum(at: Asker) -> str:
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": later(1)}
    return await at.lets("put_object", "a", Body=CONTENT, **lock)


async def _shown(at: Asker) -> str:
    await at.put("a", "COMPLIANCE")
    return "yes" if "ObjectLockMode" in await at.does("get_object", "a") else "no"


async def _encrypted(at: Asker) -> str:
    await at.put("a", ServerSideEncryption="AES256")
    return "yes" if (await at.does("head_object", "a")).get("ServerSideEncryption") == "AES256" else "ignored"


async def _default(at: Asker) -> str:
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    await at.does("put_object_lock_configuration", ObjectLockConfiguration=rule)
    await at.put("a")
    return "yes" if "ObjectLockMode" in await at.does("head_object", "a") else "no"


QUESTIONS: dict[str, Callable[[Asker], Awaitable[str]]] = {
    "deleting a locked version": _delete,
    "the same, with bypass": _delete_with_bypass,
    "shortening COMPLIANCE": _shorten,
    "shortening it, with bypass": _shorten_with_bypass,
    "COMPLIANCE to GOVERNANCE": _weaken,
    "extending COMPLIANCE": _extend,
    "deleting under GOVERNANCE": _governance,
    "the same, with bypass and the right to": _governance_with_bypass,
    "deleting under a legal hold": _held,
    "deleting a bucket with locked versions": _drop_bucket,
    "suspending versioning": _suspend,
    "creating what is there (`If-None-Match`)": _once,
    "creating what has a delete marker": _over_marker,
    "a wrong checksum": _wrong_checksum,
    "a locked upload without a checksum": _no_checksum,
    "a lock is shown by GET": _shown,
    "SSE-S3 is done and shown": _encrypted,
    "default retention is on the object": _default,
}


async def test_it_enforces_what_the_page_says(asker: Asker, s3: S3Server) -> None:
    """Every answer is the one in the table: what is refused, what is allowed, and what is taken and ignored."""
    said, found = expected(s3.kind.program.name), {}
    for number, (question, ask) in enumerate(QUESTIONS.items()):
        await asker.client.create_bucket(Bucket=f"{asker.bucket}-{number}", ObjectLockEnabledForBucket=True)
        found[question] = await ask(Asker(asker.client, f"{asker.bucket}-{number}"))
    assert found == said
