"""`ServerTls`: a server's certificate, and whom it lets in, from PEM files that may be replaced at any time.

Each version of the files is a context of its own: nothing of an old one (sessions, tickets) opens a door of a new one.
`client_context` is the other side: whom we trust, and who we are.
"""

import ssl
from pathlib import Path
from typing import Final

from ugallu.errors import PermanentError
from ugallu.net.watched import Watched

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


class ServerTls:
    """TLS 1.2 and later; with a client CA, only callers with a certificate of that CA come in."""

    def __init__(
        self, certificate: Path, key: Path, client_ca: Path | None = None, *, protocol: str = "http/1.1"
    ) -> None:
        """Read the files; raises `PermanentError` naming the one that cannot be used, and what to do."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._protocol = protocol
        self._files = Watched(certificate, key, *([client_ca] if client_ca else []))
        self.context = self._load()
        """For new connections; those that are open keep the one that they came with."""

    def refresh(self) -> bool:
        """Take over files that have changed; tell whether `context` is a new one.

        Raises `PermanentError` for files that cannot be used, once a change; what was valid stays.
        """
        if not self._files.changed():
            return False
        self.context = self._load()
        return True

    def _load(self) -> ssl.SSLContext:
        contents = self._files.read()
        for path, content, mark, what in zip(
            self._files.paths,
            contents,
            (_CERTIFICATE, _KEY, _CERTIFICATE),
            ("certificate", "private key", "certificate"),
            strict=False,
        ):
            if mark not in content:
                raise PermanentError(f"holds no {what}", where=str(path), fix="write it as PEM")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A resumed session would not show its certificate again.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.set_alpn_protocols([self._protocol])
        try:
            # Without a password of ours OpenSSL would ask at the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError) as error:
            raise self._unusable(error) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(cadata=contents[2].decode("ascii"))
            except (ssl.SSLError, UnicodeDecodeError) as error:
                raise PermanentError(
                    "holds no valid certificate", where=str(self._client_ca), fix="write the CA's certificate as PEM"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _unusable(self, error: OSError) -> PermanentError:
        reason = getattr(error, "reason", None) or ""
        if reason == "KEY_VALUES_MISMATCH":
            return PermanentError(
                f"is not the key of {self._certificate}", where=str(self._key), fix="give both of one pair"
            )
        if "CERTIFICATE" in reason or "KEY_TOO_SMALL" in reason or "MD_TOO_WEAK" in reason:
            return PermanentError(
                f"cannot be used: {reason.lower().replace('_', ' ')}",
                where=str(self._certificate),
                fix="make a new certificate: ECDSA P-256 or RSA of 2048 bits, SHA-256",
            )
        return PermanentError(
            f"cannot be used, or its key in {self._key} cannot",
            where=str(self._certificate),
            fix="write both as PEM, the key without a pass phrase",
        )


def client_context(
    ca: Path | None, certificate: Path | None = None, key: Path | None = None, *, protocol: str = "http/1.1"
) -> ssl.SSLContext:
    """Return how to call a server that `ca` vouches for (None: the machine's own), with a certificate or without.

    Raises `PermanentError` naming the file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except (ssl.SSLError, OSError) as error:
        raise PermanentError(
            "holds no valid certificate", where=str(ca), fix="write the CA's certificate as PEM"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            raise PermanentError(
                f"cannot be used, or its key in {key} cannot",
                where=str(certificate),
                fix="write both as PEM, the key without a pass phrase",
            ) from error
    return context
