"""Certificates of what audit-detection serves, for clusters with cert-manager: from a CA of our own, to be pinned."""

from collections.abc import Iterator
from typing import Any

from ugallu.api.detection import BUS_TLS
from ugallu.manifests.document import Document
from ugallu.manifests.names import BUS_CLIENT, BUS_SERVICE, SYSTEM, WEBHOOK_TLS, metadata

SERVICE = "ugallu-audit-detection-webhook"
CA = "ugallu-audit-webhook-ca"


def documents() -> Iterator[Document]:
    """Yield issuers and certificates; the API server's kubeconfig takes `ca.crt` of the Secret called `CA`."""
    key = {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    yield _object("Issuer", "ugallu-self-signed", {"selfSigned": {}})
    # Ten years: every API server has to be told a new one by hand.
    yield _object(
        "Certificate",
        CA,
        {
            "commonName": CA,
            "duration": "87600h",
            "isCA": True,
            "issuerRef": {"kind": "Issuer", "name": "ugallu-self-signed"},
            "privateKey": {**key, "rotationPolicy": "Never"},
            "secretName": CA,
        },
    )
    yield _object("Issuer", CA, {"ca": {"secretName": CA}})
    # API servers call by address as a rule: add the Service's clusterIP under ipAddresses.
    yield _object(
        "Certificate",
        WEBHOOK_TLS,
        {
            "dnsNames": [f"{SERVICE}.{SYSTEM}.svc", f"{SERVICE}.{SYSTEM}.svc.cluster.local"],
            "duration": "2160h",
            "renewBefore": "720h",
            "issuerRef": {"kind": "Issuer", "name": CA},
            "privateKey": key,
            "secretName": WEBHOOK_TLS,
            "usages": ["server auth"],
        },
    )

    names = (f"{BUS_SERVICE}.{SYSTEM}.svc", f"{BUS_SERVICE}.{SYSTEM}.svc.cluster.local")
    yield _object(
        "Certificate",
        BUS_TLS,
        {
            "dnsNames": list(names),
            "duration": "2160h",
            "renewBefore": "720h",
            "issuerRef": {"kind": "Issuer", "name": CA},
            "privateKey": key,
            "secretName": BUS_TLS,
            "usages": ["server auth"],
        },
    )
    # What a consumer shows, and the CA that it asks for, without the server's key.
    yield _object(
        "Certificate",
        BUS_CLIENT,
        {
            "commonName": BUS_CLIENT,
            "duration": "2160h",
            "renewBefore": "720h",
            "issuerRef": {"kind": "Issuer", "name": CA},
            "privateKey": key,
            "secretName": BUS_CLIENT,
            "usages": ["client auth"],
        },
    )


def _object(kind: str, name: str, spec: dict[str, Any]) -> Document:
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": kind,
        "metadata": metadata(name, "audit-webhook", SYSTEM),
        "spec": spec,
    }
