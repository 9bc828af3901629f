"""Keys and certificates of the evidence services, made before any of them starts: what is trusted is known in advance.

The forms are those that each service reads: fulcio wants an encrypted key, tesseract one of the old form, and the
timestamp authority a leaf whose one purpose is critical.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.rig.keys import BEGIN, END
from ugallu.testing.certificates import usage

PASSWORD = "test"
_PKCS8 = serialization.PrivateFormat.PKCS8
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Keys:
    """Paths, all PEM."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        """Return the path of `<file>_<suffix>`: `fulcio_pem`, `ct_key`, `rekor1_pub`."""
        stem, _, suffix = name.rpartition("_")
        if not stem:
            raise AttributeError(name)
        return self.folder / f"{stem}.{suffix}"


def make(folder: Path) -> Keys:
    """Write the keys of all services."""
    folder.mkdir(mode=0o700)
    keys = Keys(folder)
    _authority(keys)
    _log(keys.ct_key, keys.ct_pub, serialization.PrivateFormat.TraditionalOpenSSL)
    _log(keys.rekor1_key, keys.rekor1_pub, _PKCS8)
    _log(keys.rekor2_key, keys.rekor2_pub, _PKCS8)
    _timestamps(keys)
    return keys


def builder(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    """Return what all certificates have."""
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def root(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the certificate of an authority of its own."""
    return (
        builder(name, name, key.public_key(), key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage(certifies=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _authority(keys: Keys) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    keys.fulcio_pem.write_bytes(root("rig fulcio", key).public_bytes(_PEM))
    encryption = serialization.BestAvailableEncryption(PASSWORD.encode())
    keys.fulcio_key.write_bytes(key.private_bytes(_PEM, _PKCS8, encryption))


def _log(private: Path, public: Path, form: serialization.PrivateFormat) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(_PEM, form, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def _timestamps(keys: Keys) -> None:
    above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    leaf = (
        builder("rig tsa", "rig tsa root", key.public_key(), above.public_key())
        .add_extension(usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(above, hashes.SHA256())
    )
    chain = (leaf, root("rig tsa root", above))
    keys.tsa_pem.write_bytes(b"".join(one.public_bytes(_PEM) for one in chain))
    keys.tsa_key.write_bytes(key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption()))


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "rig"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )
