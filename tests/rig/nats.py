"""A NATS server with JetStream on this machine: TLS, a token or accounts, and data that survives a restart."""

import base64
import binascii
import json
import secrets
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.rig import go
from tests.rig.ground import Ground, Process, answers, free_port, wait
from tests.rig.keys import Authority

TOKEN = "s3cret-of-this-run"
_KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_UNLIMITED = dict.fromkeys(
    (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    ),
    -1,
)


class NatsServer:
    """A running server. `accounts`: users show .creds files, as NATS operators hand them out; else all show a token."""

    def __init__(self, *, accounts: bool = False) -> None:
        self.accounts = accounts
        self.port = free_port()
        self._monitor = free_port()

    def __enter__(self) -> Self:
        binary = go.provide(go.NATS)
        self.ground = Ground()
        self.folder = self.ground.folder / "nats"
        self.folder.mkdir()
        authority = Authority(self.folder, "ca")
        pair = authority.issue("server", "server", hosts=("127.0.0.1", "localhost"))
        self.ca = authority.pair.certificate
        self.token = self.folder / "token"
        self.token.write_text(f"{TOKEN}\n")
        self.credentials = self.folder / "user.creds"
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self._monitor}"\n'
            f'jetstream {{ store_dir: "{self.folder / "data"}" }}\n'
            f'tls {{ cert_file: "{pair.certificate}", key_file: "{pair.key}" }}\n'
            + (self._accounts() if self.accounts else f'authorization {{ token: "{TOKEN}" }}\n')
        )
        self.process: Process = self.ground.process("nats-server", str(binary), "-c", str(config))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ground.clear()

    def start(self) -> None:
        """Start the server, with the data there is, and wait until it answers."""
        self.process.start()
        wait("NATS", self._ready, hint=self.process.tail)

    def name(self) -> str:
        """Return a name for a stream that nobody has taken."""
        return f"EVENTS-{secrets.token_hex(6)}"

    def _ready(self) -> bool:
        self.process.check()
        return answers(f"http://127.0.0.1:{self._monitor}/healthz?js-enabled-only=true")

    def _accounts(self) -> str:
        """Return the configuration of an operator with two accounts, and write a user's .creds file."""
        operator, system, account, user = (NKey(kind) for kind in ("operator", "account", "account", "user"))
        limits = {"limits": {**_UNLIMITED, "wildcards": True}, "default_permissions": {"pub": {}, "sub": {}}}
        jwt = operator.claim(user, {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}, by=account)
        self.credentials.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return (
            f"operator: {operator.claim(operator, {})}\nsystem_account: {system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{\n {account.public}: {operator.claim(account, limits)}\n"
            f" {system.public}: {operator.claim(system, {'limits': {**_UNLIMITED, 'disk_storage': 0, 'mem_storage': 0}})}\n}}\n"
        )


class NKey:
    """A key pair as NATS writes them: base32 of kind, key and CRC-16."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._key = Ed25519PrivateKey.generate()
        prefix = _KINDS[kind]
        self.public = _encoded(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        self.seed = _encoded(bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3]) + self._key.private_bytes_raw())

    def claim(self, about: "NKey", nats: dict[str, object], *, by: "NKey | None" = None) -> str:
        """Return a signed claim about another key, by `by` or by this one."""
        issuer = by or self
        body = {
            "jti": secrets.token_hex(8),
            "iat": 1767225600,
            "iss": issuer.public,
            "name": about.kind,
            "sub": about.public,
            "nats": {**nats, "type": about.kind, "version": 2},
        }
        parts = [_part(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
        signature = issuer._key.sign(".".join(parts).encode())
        return ".".join([*parts, _part(signature)])


def _encoded(data: bytes) -> str:
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
