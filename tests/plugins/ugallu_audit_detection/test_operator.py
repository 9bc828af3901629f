"""`AuditDetection` as an operator: what it declares, what it builds, how it is configured."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from ugallu.api.catalog import CATALOGUE
from ugallu.api.detection import AuditDetectionConfig, AuditDetectionConfigSpec
from ugallu.api.event import ClusterIdentity
from ugallu.api.meta import decode_strict, encode
from ugallu.cluster.cache import SharedCache
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Parts
from ugallu.operator.platform import Platform
from ugallu.settings import AuditSettings, Settings
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu_audit_detection.bus import Feeder
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.operator import AuditDetection

if TYPE_CHECKING:
    from ugallu.emit.port import Emitter


def build(state: Path, config: AuditDetectionConfigSpec | None = None, *, follow: bool = False) -> Parts:
    clock = ManualClock()
    cluster = memory_cluster(clock)
    platform = Platform(
        identity=ClusterIdentity(cluster_id="c"),
        cluster=cluster,
        cache=SharedCache(cluster),
        emitter=cast("Emitter", None),  # nothing is emitted here
        clock=clock,
        log=structlog.get_logger(),
        metrics=Metrics(),
        settings=Settings(audit=AuditSettings(files=("audit.log",), follow=follow)),
        namespace="ugallu-system",
        state=state,
    )
    return AuditDetection().build(config or AuditDetectionConfigSpec(), platform)


def spec(**fields: object) -> AuditDetectionConfigSpec:
    return decode_strict(AuditDetectionConfigSpec, fields)


def test_a_rule_may_choose_any_type() -> None:
    """The emitter admits what the catalogue knows."""
    assert {kind.name for kind in AuditDetection.emits} >= set(CATALOGUE)


def test_it_may_touch_little() -> None:
    """It reads Pods and rights for rules that ask, no Secrets; and it writes no rule's spec."""
    assert {(resource, grant.verbs) for grant in AuditDetection.grants for resource in grant.resources} == {
        ("sigmarules", ("get", "list", "watch")),
        ("sigmarules/status", ("patch",)),
        ("auditdetectionconfigs", ("get",)),
        *(
            (read, ("list", "watch"))
            for read in ("pods", "roles", "clusterroles", "rolebindings", "clusterrolebindings")
        ),
    }


def test_the_watch_is_for_live_logs(tmp_path: Path) -> None:
    """A replay's input ends; its silence means nothing."""
    assert [service.name for service in build(tmp_path).services] == ["rule counts"]
    live = [service.name for service in build(tmp_path, follow=True).services]
    assert live == ["rule counts", "stream watch", "loss ledger", "event bus status"]
    assert isinstance(build(tmp_path).detectors[0], Engine)


def test_without_rules_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """An empty cluster is ready."""
    assert build(tmp_path).ready() == ""


def test_the_bus_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    """It costs nothing else: no part, no library."""
    assert len(build(tmp_path, spec(eventBus={"enabled": False})).detectors) == 1
    parts = build(tmp_path, spec(eventBus={"enabled": True}))
    assert [service.name for service in parts.services] == ["rule counts", "event bus", "event bus losses"]
    assert isinstance(parts.detectors[0], Feeder)


@pytest.mark.parametrize(
    ("consumers", "said"),
    [([{"name": "a"}, {"name": "b"}, {"name": "a"}], "'a' stands twice"), ([{"name": ""}], "without a name")],
)
def test_consumers_have_names_of_their_own(tmp_path: Path, consumers: list[dict[str, str]], said: str) -> None:
    """They are metric labels and identities."""
    with pytest.raises(PermanentError, match=said):
        build(tmp_path, spec(consumers=consumers))


def test_the_config_is_as_on_the_wire() -> None:
    """Field names of the API, defaults included."""
    text = b"""{"metadata":{"name":"default"},"spec":{"eventBus":{"enabled":true,"listenAddr":":9444",
    "tokenSecret":{"name":"t","key":"k"}},"consumers":[{"name":"honeypot","maxEventsPerSec":5,
    "filter":{"objectRefHasNamespace":true,"verbAllowlist":["get"]}}]}}"""
    config = decode_strict(AuditDetectionConfig, text)
    assert decode_strict(AuditDetectionConfig, encode(config)) == config
    assert config.spec.consumers[0].filter is not None
    assert config.spec.consumers[0].filter.object_ref_has_namespace
    assert spec(eventBus={}).event_bus is not None


def test_a_role_loads_no_reader_that_it_does_not_use() -> None:
    """Rules come as objects: YAML and pySigma are for files and upstream rules."""
    code = (
        "import sys; import ugallu_audit_detection.operator;"
        "sys.exit(any(m in sys.modules for m in ('yaml', 'sigma', 'argparse', 'ugallu_audit_detection.files')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
