"""TLS contexts from PEM in memory. A private key never gets a name in a file system."""

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ugallu.errors import PermanentError


def context(*, ca: bytes = b"", certificate: bytes = b"", verify: bool = True, where: str = "") -> ssl.SSLContext:
    """Return a context for an API server.

    `ca` is what to trust (empty: the machine's own roots), `certificate` our certificate and its key. Raises
    `PermanentError` for PEM that cannot be used, without quoting it.
    """
    if not verify:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        try:
            made = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        except (ssl.SSLError, ValueError) as error:
            raise PermanentError(
                "the CA is no PEM certificate", where=where, fix="check certificate-authority"
            ) from error
        # CAs of clusters are older than RFC 5280's strictness, which Python 3.13 began to insist on.
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.set_alpn_protocols(["http/1.1"])
    if certificate:
        try:
            with _unnamed(certificate) as path:
                made.load_cert_chain(path, password=_refuse)
        except (ssl.SSLError, ValueError) as error:
            raise PermanentError(
                "the client certificate and its key are no pair of PEM, or the key is encrypted",
                where=where,
                fix="check client-certificate and client-key",
            ) from error
    return made


def is_pair(certificate: bytes) -> bool:
    """Tell whether PEM holds a certificate and its key."""
    try:
        context(certificate=certificate, verify=False)
    except PermanentError:
        return False
    return True


def _refuse() -> str:
    """Say no where OpenSSL would ask the terminal for a passphrase, and wait."""
    raise ValueError("the key is encrypted")


@contextmanager
def _unnamed(content: bytes) -> Iterator[str]:
    """Show bytes as a path for as long as it takes to read them: OpenSSL reads certificates from files only."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("tls")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
