"""What a CertificateSigningRequest asks for: whose name and groups the certificate would carry.

They stand in `spec.request`, a PEM block in base64, so no path leads to them. The API server has parsed what it took;
what cannot be read here is told as that, and not as harmless.
"""

import base64
import binascii
from typing import Any, Final

MAX_REQUEST: Final = 64 << 10
"""Characters of base64. A request with a key of 8,192 bits has about five thousand."""


def asked_for(body: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any JSON
    """Return `commonName` (text) and `organizations` (texts), or `unreadable`; None where nothing is asked for."""
    spec = body.get("spec") if isinstance(body, dict) else None
    request = spec.get("request") if isinstance(spec, dict) else None
    if not isinstance(request, str) or not request:
        return None
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509.oid import NameOID

    try:
        if len(request) > MAX_REQUEST:
            return {"unreadable": True}
        subject = x509.load_pem_x509_csr(base64.b64decode(request)).subject
        names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        groups = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        return {"unreadable": True}
    return {"commonName": names[-1] if names else "", "organizations": groups}
