"""A transit engine in memory: the answers are those that a real server was seen to give, the keys are real ones."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ugallu.clock import Clock
from ugallu.evidence import keys
from ugallu.evidence.ports import PublicKey
from ugallu.net.ask import Reply

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_PUBLIC = serialization.PublicFormat
JWT_METHOD = "auth/jwt"


class FakeOpenBao:
    """A `Peer`. Times are those of the clock; `lease` in seconds, 0 is what a server says of a token without end."""

    host = "openbao.test"

    def __init__(self, clock: Clock, *, name: str = "ugallu", key_type: str = "ecdsa-p256", lease: int = 60) -> None:
        self.clock = clock
        self.name = name
        self.key_type = key_type
        self.lease = lease
        self.renewable = True
        self.allows = True
        """Whether the role's policy lets the token use the key."""
        self.accepted = "jwt"
        """The token that logs in."""
        self.min_encryption_version = 0
        self.versions: list[Key] = []
        self.calls: list[str] = []
        self.signed = 0
        """Messages that were signed."""
        self.forge = False
        """Sign with a key that nobody knows."""
        self._tokens: dict[str, float] = {}
        self._count = 0
        self.rotate()

    @property
    def published(self) -> tuple[PublicKey, ...]:
        """Every version of the key, as a stranger is given it."""
        return tuple(keys.from_pem(_pem(key)) for key in self.versions)

    def rotate(self) -> None:
        """Make the next version of the key."""
        self.versions.append(_new(self.key_type))

    def forget_tokens(self) -> None:
        """Revoke every token."""
        self._tokens.clear()

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer one call."""
        self.calls.append(f"{method} {path}")
        asked: dict[str, Any] = msgspec.json.decode(body) if body else {}
        if path.endswith("/login"):
            return self._login(path, asked)
        token = (headers or {}).get("X-Vault-Token", "")
        if self._tokens.get(token, -1.0) <= self.clock.monotonic():
            return _errors(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
        if path == "/v1/auth/token/renew-self":
            if not self.renewable:
                return _errors(400, "lease is not renewable")
            return self._auth(token)
        if not self.allows:
            return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
        if path == f"/v1/transit/keys/{self.name}" and self.versions:
            return _json(200, {"data": self._key()})
        if path == f"/v1/transit/sign/{self.name}" and self.versions:
            return self._sign(asked)
        if path.startswith("/v1/transit/keys/"):
            return _json(404, {"errors": []})
        return _errors(400, "signing key not found")

    def _login(self, path: str, asked: Mapping[str, Any]) -> Reply:
        if asked.get("jwt") != self.accepted:
            return _errors(400 if JWT_METHOD in path else 403, "permission denied")
        self._count += 1
        return self._auth(f"s.{self._count}")

    def _auth(self, token: str) -> Reply:
        self._tokens[token] = self.clock.monotonic() + (self.lease or float("inf"))
        auth = {"client_token": token, "lease_duration": self.lease, "renewable": self.renewable}
        return _json(200, {"auth": auth})

    def _key(self) -> dict[str, Any]:
        versions = {str(number): {"public_key": _public(key)} for number, key in enumerate(self.versions, 1)}
        return {
            "name": self.name,
            "type": self.key_type,
            "latest_version": len(self.versions),
            "min_encryption_version": self.min_encryption_version,
            "keys": versions,
        }

    def _sign(self, asked: Mapping[str, Any]) -> Reply:
        algorithm = asked.get("hash_algorithm", "sha2-256")
        if algorithm not in ("sha2-256", "sha2-384", "sha2-512", "none"):
            return _errors(400, f'invalid hash algorithm "{algorithm}"')
        version = asked.get("key_version") or len(self.versions)
        if not self.min_encryption_version <= version <= len(self.versions):
            return _errors(400, "cannot sign: version is too old (disallowed by policy)")
        key = _new(self.key_type) if self.forge else self.versions[version - 1]
        items = asked.get("batch_input", [{"input": asked.get("input", "")}])
        results = []
        for item in items:
            try:
                message = base64.b64decode(item["input"], validate=True)
            except binascii.Error:
                results.append({"error": "unable to decode input as base64", "reference": item.get("reference", "")})
                continue
            signature = base64.b64encode(_sign(key, message, asked)).decode()
            self.signed += 1
            made = {"signature": f"vault:v{version}:{signature}", "key_version": version}
            results.append({**made, "reference": item.get("reference", "")})
        return _json(200, {"data": {"batch_results": results} if "batch_input" in asked else results[0]})


def _new(key_type: str) -> Key:
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if key_type.startswith("rsa-"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(key_type.removeprefix("rsa-")))
    return ec.generate_private_key({"ecdsa-p256": ec.SECP256R1, "ecdsa-p384": ec.SECP384R1}[key_type]())


def _public(key: Key) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, _PUBLIC.Raw)
        return base64.b64encode(raw).decode()
    return _pem(key).decode()


def _pem(key: Key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, _PUBLIC.SubjectPublicKeyInfo)


def _sign(key: Key, message: bytes, asked: Mapping[str, Any]) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    if asked.get("signature_algorithm", "pss") == "pkcs1v15":
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256())


def _json(status: int, value: object) -> Reply:
    return Reply(status, {"content-type": "application/json"}, msgspec.json.encode(value))


def _errors(status: int, *errors: str) -> Reply:
    return _json(status, {"errors": list(errors)})
