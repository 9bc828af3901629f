"""OpenBao transit: a key that never leaves the service, and is rotated there.

Signatures that are wanted at the same time go in one call. Each names the key version it is made with, and is checked
under that version's public key before it is believed. Every version ever seen stays known, on our own disk too: what an
old one has signed must verify when the service has long forgotten it.
Source of the protocol: OpenBao's HTTP API, `transit`, `auth/kubernetes`, `auth/jwt`.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import msgspec
from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence import keys
from ugallu.evidence.dsse import pae
from ugallu.evidence.encoding import b64
from ugallu.evidence.files import make_directory, sync_directory, write_durably
from ugallu.evidence.ports import Envelope, IntegrityError, KeyGoneError, PublicKey
from ugallu.evidence.signers.token import TokenFile
from ugallu.net.ask import Peer, Reply, failed
from ugallu.settings import Secret

T = TypeVar("T")

BATCH: Final = 256
"""Signatures in one call."""
FRESH: Final = 60.0
"""Seconds after which the service is asked again which versions the key has."""
MAX_VERSIONS: Final = 4096

_SIGNATURE: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410)."""


class Login(msgspec.Struct, frozen=True):
    """How to get a token of the service: `mount` is `auth/kubernetes`, or that of a jwt method, which asks the same."""

    mount: str
    role: str
    token: TokenFile


class _Auth(msgspec.Struct, frozen=True):
    client_token: str
    lease_duration: int = 0
    renewable: bool = False


class _LoggedIn(msgspec.Struct, frozen=True):
    auth: _Auth


class _Version(msgspec.Struct, frozen=True):
    public_key: str = ""


class _Key(msgspec.Struct, frozen=True):
    type: str
    latest_version: int
    keys: dict[str, _Version | int]


class _KeyData(msgspec.Struct, frozen=True):
    data: _Key


class _Result(msgspec.Struct, frozen=True):
    signature: str = ""
    reference: str = ""
    error: str = ""


class _Results(msgspec.Struct, frozen=True):
    batch_results: tuple[_Result, ...]


class _Batch(msgspec.Struct, frozen=True):
    data: _Results


class _Held(msgspec.Struct, frozen=True):
    """Versions by number, SubjectPublicKeyInfo DER."""

    versions: dict[int, bytes]


class _Wanted:
    """A message on its way to the service, and what came of it."""

    __slots__ = ("error", "made", "message")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.made: tuple[bytes, PublicKey] | None = None
        self.error: UgalluError | None = None


class Session:
    """A token of the service: got by showing our own, renewed while that is possible, got anew when it is not."""

    def __init__(self, client: Peer, login: Login, clock: Clock) -> None:
        self._client = client
        self._login = login
        self._clock = clock
        self._turn = anyio.Lock()
        self._token = Secret("")
        self._ends = float("-inf")
        self._renew_at = float("-inf")
        self._renewable = False

    async def ask(self, method: str, path: str, body: object = None) -> Reply:
        """Ask with the token; one that is not accepted any more is replaced once."""
        token = await self._current()
        reply = await self._send(method, path, body, token)
        if reply.status == 403:
            async with self._turn:
                if self._token is token:
                    await self._log_in()
            reply = await self._send(method, path, body, self._token)
        return reply

    async def _current(self) -> Secret[str]:
        async with self._turn:
            now = self._clock.monotonic()
            if now >= self._ends or (now >= self._renew_at and not await self._renew()):
                await self._log_in()
            return self._token

    async def _renew(self) -> bool:
        if not self._renewable:
            return False
        reply = await self._send("POST", "/v1/auth/token/renew-self", {}, self._token)
        if reply.status != 200:
            return False
        self._take(_decode(reply, _LoggedIn, self._client.host).auth)
        return True

    async def _log_in(self) -> None:
        token = self._login.token.read(self._clock.now())
        body = {"role": self._login.role, "jwt": token.secret.reveal()}
        path = f"/v1/{self._login.mount}/login"
        reply = await self._client.ask("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
        # A jwt method says 400 where a kubernetes method says 403.
        if reply.status in (400, 403):
            raise RefusedError(
                f"no login as {self._login.role!r} at {self._login.mount}: {reply.said}",
                where=self._client.host,
                fix="look at the role's bound accounts, namespaces and audiences",
            )
        if reply.status != 200:
            raise failed(reply, self._client.host)
        self._take(_decode(reply, _LoggedIn, self._client.host).auth)

    def _take(self, auth: _Auth) -> None:
        seconds = float(auth.lease_duration or 300)
        now = self._clock.monotonic()
        self._token = Secret(auth.client_token)
        self._renewable = auth.renewable
        self._renew_at = now + seconds / 2
        # What is sent at the very end would arrive after it.
        self._ends = now + seconds * 0.9

    async def _send(self, method: str, path: str, body: object, token: Secret[str]) -> Reply:
        headers = {"X-Vault-Token": token.reveal(), "Content-Type": "application/json"}
        return await self._client.ask(method, path, b"" if body is None else msgspec.json.encode(body), headers)


class TransitSigner:
    """A `Signer` with a transit key."""

    def __init__(
        self, client: Peer, session: Session, clock: Clock, *, mount: str, key: str, key_type: str, kept: Path
    ) -> None:
        """Name the key; `key_type` is how transit calls its type, `kept` the file of the versions that were ever seen.

        Raises `PermanentError` for names that no path can hold, `IntegrityError` for a file that cannot be read.
        """
        for name in (mount, key):
            if not _NAME.fullmatch(name) or ".." in name:
                raise PermanentError(f"{name!r} cannot be part of a path", where="openbao")
        self._client = client
        self._session = session
        self._clock = clock
        self._path = f"{mount}/keys/{key}"
        self._sign_path = f"/v1/{mount}/sign/{key}"
        self._id = f"openbao:{mount}/{key}"
        self._key_type = key_type
        self._kept = kept
        self._turn = anyio.Lock()
        self._waiting: list[_Wanted] = []
        self._latest = 0
        self._read_at = float("-inf")
        self._versions = {number: self._named(spki) for number, spki in _load(kept).items()}

    @property
    def mode(self) -> str:
        """`openbao-transit`."""
        return "openbao-transit"

    @property
    def signs_as(self) -> tuple[PublicKey, ...]:
        """Return every version of the key that was ever seen, the newest first."""
        return tuple(self._versions[number] for number in sorted(self._versions, reverse=True))

    async def public_key(self) -> PublicKey:
        """Return the newest version."""
        async with self._turn:
            await self._refresh()
            return self._versions[self._latest]

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign, together with whoever else is waiting."""
        wanted = _Wanted(pae(payload_type, payload))
        self._waiting.append(wanted)
        async with self._turn:
            if wanted.made is None and wanted.error is None:
                # A message whose asker has gone is signed in vain, and nothing comes of it.
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                if wanted not in batch:
                    self._waiting.remove(wanted)
                    batch.append(wanted)
                await self._settle(batch)
        if wanted.made is None:
            raise wanted.error or TransientError("not signed", where=self._client.host)
        signature, key = wanted.made
        return Envelope(payload_type, payload, signature, key=key)

    def __repr__(self) -> str:
        return f"TransitSigner({self._id})"

    async def _settle(self, batch: list[_Wanted]) -> None:
        try:
            await self._refresh()
            try:
                await self._sign(batch)
            except PermanentError:
                # The version may not sign any more (`min_encryption_version`): ask which one does.
                known = self._latest
                await self._refresh(now=True)
                if self._latest == known:
                    raise
                await self._sign(batch)
        except UgalluError as error:
            for wanted in batch:
                wanted.error = wanted.error if wanted.made is not None else error
        except BaseException:
            # Cancelled: the others try again at their own turn.
            self._waiting[:0] = [wanted for wanted in batch if wanted.made is None]
            raise

    async def _sign(self, batch: list[_Wanted]) -> None:
        key = self._versions[self._latest]
        inputs = [{"input": b64(wanted.message), "reference": str(at)} for at, wanted in enumerate(batch)]
        body: dict[str, Any] = {"batch_input": inputs, "key_version": self._latest}
        if self._key_type != "ed25519":
            body |= {"hash_algorithm": "sha2-256", "prehashed": False, "marshaling_algorithm": "asn1"}
        if self._key_type.startswith("rsa"):
            body["signature_algorithm"] = "pkcs1v15"
        reply = await self._session.ask("POST", self._sign_path, body)
        if reply.status != 200:
            raise self._failed(reply)
        results = _decode(reply, _Batch, self._client.host).data.batch_results
        by_reference = {result.reference: result for result in results}
        if len(by_reference) != len(batch) or len(results) != len(batch):
            raise IntegrityError("other signatures than were asked for", where=self._client.host)
        for at, wanted in enumerate(batch):
            result = by_reference.get(str(at), _Result(error="no answer"))
            if result.error:
                raise PermanentError(f"does not sign: {result.error[:200]}", where=self._client.host)
            signature = self._signature(result.signature)
            if not keys.verifies(key.spki, signature, wanted.message):
                raise IntegrityError(
                    f"a signature that does not hold under version {self._latest} of the key", where=self._client.host
                )
            wanted.made = signature, key

    def _signature(self, text: str) -> bytes:
        found = _SIGNATURE.fullmatch(text)
        if found is None:
            raise IntegrityError("an answer that is no signature", where=self._client.host)
        if int(found[1]) != self._latest:
            raise IntegrityError(f"signed with version {found[1]} instead of {self._latest}", where=self._client.host)
        try:
            return base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise IntegrityError("an answer that is no signature", where=self._client.host) from error

    async def _refresh(self, *, now: bool = False) -> None:
        """Read which versions there are, when that was not done lately, and keep new ones before they sign."""
        if not now and self._clock.monotonic() < self._read_at + FRESH:
            return
        reply = await self._session.ask("GET", f"/v1/{self._path}")
        if reply.status == 404:
            raise KeyGoneError(
                f"there is no transit key at {self._path}", where=self._client.host, fix="create it, or restore it"
            )
        if reply.status != 200:
            raise self._failed(reply)
        key = _decode(reply, _KeyData, self._client.host).data
        if key.type != self._key_type:
            raise PermanentError(
                f"the key is of type {key.type[:40]!r}, not {self._key_type}",
                where=f"{self._client.host} {self._path}",
                fix="set spec.openbao.keyType to what the key is",
            )
        found = {number: self._named(spki) for number, spki in _versions(key, self._client.host).items()}
        for number, known in self._versions.items():
            if number in found and found[number] != known:
                raise IntegrityError(
                    f"version {number} of the key is another one than before",
                    where=f"{self._client.host} {self._path}",
                    fix="the key was deleted and made anew: restore it, or begin anew under another name",
                )
        if key.latest_version not in found:
            raise IntegrityError("the newest version of the key has no public key", where=self._client.host)
        if key.latest_version < max(self._versions, default=0):
            raise IntegrityError(
                f"the key had {max(self._versions)} versions and now has {key.latest_version}",
                where=f"{self._client.host} {self._path}",
                fix="an old copy was put back: restore the newest",
            )
        if found.keys() - self._versions.keys():
            await self._keep(self._versions | found)
        self._latest = key.latest_version
        self._read_at = self._clock.monotonic()

    async def _keep(self, versions: dict[int, PublicKey]) -> None:
        held = _Held({number: key.spki for number, key in versions.items()})
        try:
            await to_thread.run_sync(_write, self._kept, msgspec.json.encode(held))
        except OSError as error:
            raise TransientError(str(error.strerror), where=str(self._kept), fix="check the disk") from error
        self._versions = versions

    def _named(self, spki: bytes) -> PublicKey:
        return PublicKey(spki, f"{self._id}:{keys.from_spki(spki).key_id.rpartition(':')[2]}")

    def _failed(self, reply: Reply) -> UgalluError:
        if reply.status == 403:
            return RefusedError(
                f"not allowed: {reply.said}",
                where=f"{self._client.host} {self._path}",
                fix="the role's policy must allow read on the key and update on sign",
            )
        return failed(reply, self._client.host)


def _versions(key: _Key, where: str) -> dict[int, bytes]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    if len(key.keys) > MAX_VERSIONS:
        raise PermanentError(f"a key of more than {MAX_VERSIONS} versions", where=where)
    found: dict[int, bytes] = {}
    for number, version in key.keys.items():
        if not number.isdecimal() or not isinstance(version, _Version):
            raise PermanentError("a key that nobody can verify with", where=where, fix="use an asymmetric key type")
        try:
            if key.type == "ed25519":
                spki = _ED25519 + base64.b64decode(version.public_key, validate=True)
            else:
                spki = serialization.load_pem_public_key(version.public_key.encode()).public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise PermanentError(f"version {number} of the key cannot be read", where=where) from error
        found[int(number)] = spki
    return found


def _decode(reply: Reply, shape: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(reply.body, type=shape)
    except (ValueError, RecursionError):
        # Never quoted: it may hold a token.
        raise TransientError("an answer that cannot be read", where=where) from None


def _load(path: Path) -> dict[int, bytes]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Held).versions
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError("the known versions of the key cannot be read", where=str(path)) from error


def _write(path: Path, content: bytes) -> None:
    make_directory(path.parent)
    write_durably(path, content)
    sync_directory(path.parent)
