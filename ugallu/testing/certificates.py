"""What certificates of tests have in common."""

from cryptography import x509


def usage(*, signs: bool = False, certifies: bool = False) -> x509.KeyUsage:
    """Return what a key may do."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
