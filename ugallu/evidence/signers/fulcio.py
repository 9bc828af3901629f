"""Keyless: a key of a few minutes, certified by Fulcio for whoever our token says that we are.

Key and certificate serve many signatures, until a minute before the certificate ends; then both are made anew. The
certificate is checked as a verifier will check it before anything is signed with it: chain, certificate log, name.
Source of the protocol: github.com/sigstore/fulcio, `fulcio.proto` v2; the key is proven by a signing request (CSR).
"""

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, UgalluError
from ugallu.evidence import sct, x509
from ugallu.evidence.dsse import pae
from ugallu.evidence.encoding import b64
from ugallu.evidence.ports import Envelope, IntegrityError
from ugallu.evidence.signers.token import TokenFile
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.x509 import Identity
from ugallu.net.ask import Peer, Reply, failed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUDIENCE: Final = "sigstore"
MARGIN: Final = dt.timedelta(seconds=60)
"""Before a certificate's end: what is signed must still be stamped and logged in time."""
_MAX_CHAIN: Final = 8


class _Chain(msgspec.Struct, frozen=True):
    certificates: tuple[str, ...] = ()


class _Signed(msgspec.Struct, frozen=True):
    chain: _Chain = _Chain()


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    signed_certificate_embedded_sct: _Signed | None = None
    signed_certificate_detached_sct: _Signed | None = None


class _Certified:
    """A key and its certificate; `until` is when it ends by the clock that nobody sets."""

    __slots__ = ("certificate", "ends", "key", "until")

    def __init__(self, key: "EllipticCurvePrivateKey", certificate: bytes, ends: dt.datetime, until: float) -> None:
        self.key = key
        self.certificate = certificate
        self.ends = ends
        self.until = until


class FulcioSigner:
    """A `Signer` under the identity that a token file proves."""

    def __init__(
        self,
        client: Peer,
        token: TokenFile,
        root: TrustedRoot,
        clock: Clock,
        *,
        issuer: str = "",
        identity: Identity | None = None,
        told: Callable[[dt.datetime], None] = lambda _: None,
    ) -> None:
        """Take the identity from the token, which must be of `issuer`, if that is given.

        `identity` is who the token stands for when that is no ServiceAccount.
        `told` learns when each certificate ends.
        Raises `PermanentError` for a token that cannot be used. Nothing is asked yet.
        """
        self._client = client
        self._token = token
        self._root = root
        self._clock = clock
        self._told = told
        self._turn = anyio.Lock()
        self._now: _Certified | None = None
        claims = token.read(clock.now(), AUDIENCE).claims
        if issuer and claims.iss != issuer:
            raise PermanentError(
                f"the token is of the issuer {claims.iss[:200]!r}, not {issuer}",
                where=str(token.path),
                fix="set spec.fulcio.issuer to the cluster's issuer",
            )
        if identity is None and not claims.kubernetes_name:
            raise PermanentError(
                "the token is of no ServiceAccount", where=str(token.path), fix="project the attestor's own token"
            )
        self._identity = identity or Identity(claims.kubernetes_name, claims.iss)

    @property
    def mode(self) -> str:
        """`fulcio-keyless`."""
        return "fulcio-keyless"

    @property
    def signs_as(self) -> tuple[Identity, ...]:
        """Return the one identity; the keys behind it live for minutes."""
        return (self._identity,)

    async def public_key(self) -> None:
        """Return None: a certificate travels with each signature."""
        return

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign with the key of the moment; a new one is certified first when its certificate is about to end."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        certified = await self._certified()
        signature = certified.key.sign(pae(payload_type, payload), ec.ECDSA(hashes.SHA256()))
        return Envelope(payload_type, payload, signature, certificate=certified.certificate)

    def __repr__(self) -> str:
        return f"FulcioSigner({self._identity.name})"

    async def _certified(self) -> _Certified:
        async with self._turn:
            if self._now is None or self._has_ended(self._now):
                self._now = await self._certify()
                self._told(self._now.ends)
            return self._now

    def _has_ended(self, certified: _Certified) -> bool:
        """Tell whether it ends within a minute, by either clock: the one on the wall may be set back meanwhile."""
        margin = MARGIN.total_seconds()
        return self._clock.now() >= certified.ends - MARGIN or self._clock.monotonic() >= certified.until - margin

    async def _certify(self) -> _Certified:
        from cryptography import x509 as library
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        token = self._token.read(self._clock.now(), AUDIENCE)
        key = ec.generate_private_key(ec.SECP256R1())
        request = library.CertificateSigningRequestBuilder(library.Name([])).sign(key, hashes.SHA256())
        body = {"certificateSigningRequest": b64(request.public_bytes(serialization.Encoding.PEM))}
        headers = {"Authorization": f"Bearer {token.secret.reveal()}", "Content-Type": "application/json"}
        reply = await self._client.ask("POST", "/api/v2/signingCert", msgspec.json.encode(body), headers)
        if reply.status == 400:
            # It answers so to tokens of another audience or issuer, and to such as have ended.
            raise RefusedError(f"no certificate: {reply.said}", where=self._client.host, fix="look at the token")
        if reply.status not in (200, 201):
            raise failed(reply, self._client.host)
        certificate = self._first(reply)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            begins, ends = self._check(certificate, public)
        except IntegrityError:
            raise
        except UgalluError as error:
            raise IntegrityError(f"the certificate does not hold: {error}", where=self._client.host) from error
        # Its whole life at most, and no more than is left of it by our clock.
        left = min(ends - begins, ends - self._clock.now())
        return _Certified(key, certificate, ends, self._clock.monotonic() + left.total_seconds())

    def _first(self, reply: Reply) -> bytes:
        """Return the leaf, DER."""
        from cryptography import x509 as library
        from cryptography.hazmat.primitives import serialization

        try:
            answer = msgspec.json.decode(reply.body, type=_Answer)
            if answer.signed_certificate_embedded_sct is None:
                raise PermanentError(
                    "no certificate with the promise of a certificate log in it; bundles cannot carry one beside it",
                    where=self._client.host,
                    fix="run Fulcio with a CT log",
                )
            chain = answer.signed_certificate_embedded_sct.chain.certificates
            if not 1 <= len(chain) <= _MAX_CHAIN:
                raise IntegrityError(f"a chain of {len(chain)} certificates", where=self._client.host)
            leaf = library.load_pem_x509_certificate(chain[0].encode())
        except ValueError as error:
            raise IntegrityError("no certificate in the answer", where=self._client.host) from error
        return leaf.public_bytes(serialization.Encoding.DER)

    def _check(self, certificate: bytes, public: bytes) -> tuple[dt.datetime, dt.datetime]:
        """Return when the certificate begins and ends, if verifiers will take it."""
        leaf = x509.load(certificate)
        if x509.spki(leaf) != public:
            raise PermanentError("it is about another key")
        x509.check_leaf(leaf, x509.CODE_SIGNING)
        found = x509.identity(leaf)
        if found != self._identity:
            raise PermanentError(f"it is about {found.name[:200]!r} of {found.issuer[:200]!r}")
        # Its authority's clock may be a moment ahead of ours.
        at = max(self._clock.now(), leaf.not_valid_before_utc)
        if at - self._clock.now() > MARGIN:
            raise PermanentError("it is not valid yet: the authority's clock and ours differ", fix="check both")
        issuer = x509.issuer_of(certificate, at, self._root.authorities)
        sct.check(leaf, issuer, self._root.certificate_logs)
        return leaf.not_valid_before_utc, leaf.not_valid_after_utc
