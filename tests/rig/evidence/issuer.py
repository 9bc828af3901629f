"""An issuer of ServiceAccount tokens, as an API server is one: discovery, keys, and tokens of any claims."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

NAMESPACE = "ugallu-system"
ACCOUNT = "ugallu-attestor"


class Issuer:
    """Listens on loopback as long as it is open."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
            },
            "/keys": {"keys": [self._jwk()]},
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = documents.get(self.path)
                content = json.dumps(found or {}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the base has it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def identity(self) -> str:
        """The name that fulcio makes of the account."""
        return f"https://kubernetes.io/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}"

    def token(self, *, account: str = ACCOUNT, audience: str = "sigstore", seconds: int = 3600) -> str:
        """Return a token of a ServiceAccount; with seconds below 0 one that has ended."""
        now = int(time.time())  # noqa: TID251 - the services compare it with the machine's own clock
        claims = {
            "iss": self.url,
            "aud": [audience],
            "sub": f"system:serviceaccount:{NAMESPACE}:{account}",
            "iat": now - 10,
            "nbf": now - 10,
            "exp": now + seconds,
            "kubernetes.io": {"namespace": NAMESPACE, "serviceaccount": {"name": account, "uid": "1-2-3"}},
        }
        signed = f"{_part({'alg': 'RS256', 'typ': 'JWT', 'kid': 'rig'})}.{_part(claims)}"
        return f"{signed}.{_b64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _jwk(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": "rig",
            "n": _b64(numbers.n.to_bytes(256)),
            "e": _b64(numbers.e.to_bytes(3)),
        }


def _part(value: dict[str, Any]) -> str:
    return _b64(json.dumps(value).encode())


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
