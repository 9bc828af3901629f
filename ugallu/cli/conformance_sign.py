"""`sign-bundle` of the Sigstore conformance suite: a statement about a file, signed, stamped and logged as ours are.

What is signed is an in-toto statement whose subject is the file: nothing here signs bare files. Services are those of
a signing config, version 0.2; who signs follows from the token, as Fulcio has it (github.com/sigstore/fulcio,
`docs/oidc.md`).
"""

import datetime as dt
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import msgspec

from ugallu.clock import SystemClock
from ugallu.errors import PermanentError
from ugallu.evidence import bundle, statement
from ugallu.evidence.authority import TimestampService
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.rekor_v2 import RekorV2
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, TransparencyLog
from ugallu.evidence.signers.fulcio import AUDIENCE, FulcioSigner
from ugallu.evidence.signers.token import TokenFile, claims_of
from ugallu.evidence.trusted_root import LogKey, TrustedRoot
from ugallu.evidence.x509 import Identity

CONFIG: Final = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
MAX_CONFIG: Final = 1 << 20
PREDICATE: Final = "https://ugallu.io/attestation/file/v1"
GITHUB: Final = "https://token.actions.githubusercontent.com"
_LOGS: Final = (1, 2)


class _Validity(msgspec.Struct, frozen=True):
    start: dt.datetime
    end: dt.datetime | None = None


class _Service(msgspec.Struct, frozen=True, rename="camel"):
    url: str
    valid_for: _Validity
    major_api_version: int = 1


class SigningConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Where certificates, times and entries are to be had."""

    media_type: str
    ca_urls: tuple[_Service, ...] = ()
    rekor_tlog_urls: tuple[_Service, ...] = ()
    tsa_urls: tuple[_Service, ...] = ()


class _Mail(msgspec.Struct, frozen=True):
    email: str = ""
    job_workflow_ref: str = ""
    federated_claims: dict[str, str] = {}


def read_config(content: bytes) -> SigningConfig:
    """Parse a signing config; raises `PermanentError` with what does not fit."""
    if len(content) > MAX_CONFIG:
        raise PermanentError(f"larger than {MAX_CONFIG} bytes", where="signing config")
    try:
        config = msgspec.json.decode(content, type=SigningConfig)
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="signing config") from error
    if config.media_type != CONFIG:
        raise PermanentError(f"media type {config.media_type[:80]!r} is not {CONFIG}", where="signing config")
    return config


def chosen(services: Sequence[_Service], now: dt.datetime, versions: Sequence[int] = (1,)) -> _Service | None:
    """Return the service to ask: one that counts now, of the newest version that we speak, the newest of those."""
    fit = [
        one
        for one in services
        if one.major_api_version in versions
        and one.valid_for.start <= now
        and (one.valid_for.end is None or now <= one.valid_for.end)
    ]
    return max(fit, key=lambda one: (one.major_api_version, one.valid_for.start), default=None)


async def sign(token: str, about: statement.Subject, config: SigningConfig, root: TrustedRoot) -> bytes:
    """Return a bundle over a statement about a file; raises `PermanentError` for a service that nobody names."""
    from ugallu.net.client import HttpClient

    clock = SystemClock()
    now = clock.now()
    authority, log = chosen(config.ca_urls, now), chosen(config.rekor_tlog_urls, now, _LOGS)
    times = chosen(config.tsa_urls, now)
    if authority is None or log is None:
        raise PermanentError("names no authority or no log that counts now", where="signing config")
    payload = statement.build([about], PREDICATE, {})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(token)
        certifying = await stack.enter_async_context(HttpClient(authority.url))
        logging = await stack.enter_async_context(HttpClient(log.url, secret=False))
        file = TokenFile(folder / "token")
        signer = FulcioSigner(certifying, file, root, clock, identity=_identity(token, now, file))
        envelope = await signer.sign(STATEMENT_MEDIA_TYPE, payload)
        stamps = []
        if times is not None:
            stamping = await stack.enter_async_context(HttpClient(times.url, secret=False))
            service = TimestampService(stamping, root.timestamp_authorities, clock)
            stamps.append(await service.stamp(envelope.signature))
        key = _key(log.url, root)
        into: TransparencyLog = RekorV1(logging, key, Witness(key), clock)
        if log.major_api_version == 2:
            into = RekorV2(logging, logging, key, Witness(key))
        return bundle.write(envelope, await into.add(envelope), stamps)


def _identity(token: str, now: dt.datetime, file: TokenFile) -> Identity:
    """Return who the certificate will be about."""
    claims, more = file.read(now, AUDIENCE).claims, claims_of(token, _Mail)
    if claims.kubernetes_name:
        return Identity(claims.kubernetes_name, claims.iss)
    if claims.iss == GITHUB and more.job_workflow_ref:
        return Identity(f"https://github.com/{more.job_workflow_ref}", claims.iss)
    if more.email:
        # Behind a broker it is the provider who vouches.
        return Identity(more.email, more.federated_claims.get("connector_id") or claims.iss)
    raise PermanentError("a token of a kind that is not known here", where="--identity-token")


def _key(url: str, root: TrustedRoot) -> LogKey:
    """Return the newest key of the log at this URL."""
    found = [log for log in root.logs.values() if _address(log.url) == _address(url)]
    if not found:
        raise PermanentError(f"names no log at {url}", where="trusted root")
    return max(found, key=lambda log: log.start)


def _address(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return "localhost" if host == "127.0.0.1" else host, parts.port
