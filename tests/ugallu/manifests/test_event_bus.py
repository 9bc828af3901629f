"""What the overlay `event-bus` applies: one object, refused nowhere, open to nobody who proves nothing."""

from pathlib import Path

import yaml

from ugallu.api.detection import BUS_TLS, AuditDetectionBusTLS, AuditDetectionConfig
from ugallu.api.meta import decode_strict
from ugallu.manifests import event_bus
from ugallu.manifests.roles import roles
from ugallu.supervisor.registry import installed

BUILT = yaml.safe_load(event_bus.opened()["patch"])


def test_it_is_the_object_that_is_read() -> None:
    """Alone and patched, by the strict reader that the operator has."""
    for document in (event_bus.config(), BUILT):
        config = decode_strict(AuditDetectionConfig, document, where="test")
        assert config.metadata.name == "default"
    assert not event_bus.config()["spec"]


def test_it_asks_for_a_token_and_shows_a_certificate() -> None:
    """Both from Secrets that every Pod which serves has mounted."""
    bus = decode_strict(AuditDetectionConfig, BUILT, where="test").spec.event_bus
    assert bus is not None
    assert bus.enabled
    assert not bus.insecure
    assert bus.token_secret is not None
    assert (bus.tls or AuditDetectionBusTLS()).secret_name == BUS_TLS
    for role in roles([line.load() for line in installed().values()]):
        if role.name in ("audit-webhook", "audit-file"):
            assert {BUS_TLS, bus.token_secret.name} <= set(role.workload.secrets)


def test_ingest_is_a_consumer_that_gets_everything() -> None:
    """Under the name that its process gives itself, with bodies and without a cap."""
    consumers = decode_strict(AuditDetectionConfig, BUILT, where="test").spec.consumers
    (ingest,) = [each for each in consumers if each.name == "ingest"]
    assert ingest.cap == 0
    assert ingest.filter is not None
    assert ingest.filter.bodies.value == "all"
    assert len({each.name for each in consumers}) == len(consumers)


def test_what_ingest_reads_is_mounted() -> None:
    """Every file that its settings name lies in a Secret of its own."""
    (role,) = [role for role in roles([line.load() for line in installed().values()]) if role.name == "ingest"]
    files = [Path(value) for value in role.settings.values() if value.startswith("/")]
    assert len(files) == 4
    assert {path.parent.name for path in files} == set(role.workload.secrets)
    assert role.settings["audit.bus.addresses"] == "ugallu-audit-detection-bus.ugallu-system.svc:8444"
