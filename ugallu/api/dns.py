"""DNSDetectConfig: where DNS events come from and what the five detectors look for."""

import enum
from typing import ClassVar

from msgspec import field

from ugallu.api.k8s import SecretKeySelector
from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire, always
from ugallu.api.scalars import Duration, Int32


class DNSDetectSourceMode(enum.StrEnum):
    """Who reports DNS messages."""

    COREDNS_PLUGIN = "coredns_plugin"
    TETRAGON_KPROBE = "tetragon_kprobe"


class DNSPluginEndpoint(Wire, frozen=True, kw_only=True):
    """The CoreDNS plug-in that streams queries."""

    grpc_endpoint: str
    """host:port; usual coredns.kube-system.svc.cluster.local:8443."""
    token_secret: SecretKeySelector | None = None
    """Bearer-token Secret key for the stream."""


class DNSBridgeEndpoint(Wire, frozen=True, kw_only=True):
    """The tetragon bridge that streams queries."""

    grpc_endpoint: str
    """host:port; usual ugallu-tetragon-bridge.ugallu-system-privileged.svc:50051."""
    token_secret: SecretKeySelector | None = None
    """Bearer-token Secret key for the stream."""


class DNSSourceConfig(Wire, frozen=True, kw_only=True):
    """Where DNS events come from."""

    primary: DNSDetectSourceMode = field(default_factory=always(DNSDetectSourceMode.COREDNS_PLUGIN))
    """Preferred source."""
    fallback: DNSDetectSourceMode | None = None
    """Used when primary is unreachable over 60s; empty = none."""
    plugin: DNSPluginEndpoint | None = None
    """CoreDNS plugin endpoint."""
    bridge: DNSBridgeEndpoint | None = None
    """tetragon-bridge endpoint."""


class ExfiltrationDetectorConfig(Wire, frozen=True, kw_only=True):
    """Long labels of high entropy."""

    enabled: bool = field(default_factory=always(True))
    """Run this detector."""
    min_label_len: Int32 = 60
    """Minimum length of the leftmost label."""
    min_entropy: str = "4.0"
    """Shannon bits threshold, decimal string."""
    window_size: Int32 = 64
    """Per-pod history length."""
    consecutive_triggers: Int32 = 3
    """Hits needed to fire."""


class TunnelingDetectorConfig(Wire, frozen=True, kw_only=True):
    """Payload encoded in labels."""

    enabled: bool = field(default_factory=always(True))
    """Run this detector."""
    ratelimit_per_pod: Duration = "1m"
    """At most one event per pod per period."""


class DNSBlocklistRef(Wire, frozen=True, kw_only=True):
    """A ConfigMap with denied domains."""

    namespace: str
    """ConfigMap namespace."""
    name: str
    """ConfigMap name."""


class BlocklistDetectorConfig(Wire, frozen=True, kw_only=True):
    """Denied domains."""

    enabled: bool = field(default_factory=always(True))
    """Run this detector."""
    config_maps: tuple[DNSBlocklistRef, ...] = ()
    """ConfigMaps with key "blocklist", one FQDN or *.suffix per line."""


class YoungDomainDetectorConfig(Wire, frozen=True, kw_only=True):
    """Domains registered lately."""

    enabled: bool = field(default_factory=always(True))
    """Run this detector."""
    threshold_days: Int32 = 30
    """Domains younger than this fire."""
    rdap_endpoint: str = "https://rdap.org/"
    """RDAP base URL."""
    rate_limit: str = "100/h"
    """Lookup budget "<count>/<unit>"."""


class AnomalousPortDetectorConfig(Wire, frozen=True, kw_only=True):
    """Queries to ports that are not for DNS."""

    enabled: bool = field(default_factory=always(True))
    """Run this detector."""


class DNSDetectorsConfig(Wire, frozen=True, kw_only=True):
    """The five detectors; a block may be empty."""

    exfiltration: ExfiltrationDetectorConfig = field(default_factory=always(ExfiltrationDetectorConfig()))
    """Long high-entropy label detector."""
    tunneling: TunnelingDetectorConfig = field(default_factory=always(TunnelingDetectorConfig()))
    """Encoded-payload label detector."""
    blocklist: BlocklistDetectorConfig = field(default_factory=always(BlocklistDetectorConfig()))
    """Denied-domain detector."""
    young_domain: YoungDomainDetectorConfig = field(default_factory=always(YoungDomainDetectorConfig()))
    """Recently registered domain detector."""
    anomalous_port: AnomalousPortDetectorConfig = field(default_factory=always(AnomalousPortDetectorConfig()))
    """Non-53 port detector."""


class DNSDetectConfigSpec(Config, frozen=True, kw_only=True):
    """What dns-detect listens to and looks for."""

    source: DNSSourceConfig = field(default_factory=always(DNSSourceConfig()))
    """Where DNS events come from."""
    detectors: DNSDetectorsConfig = field(default_factory=always(DNSDetectorsConfig()))
    """Settings of the five detectors."""


class DNSDetectConfigStatus(ConfigStatus, frozen=True, kw_only=True):
    """Whether the settings are in force, and which source is in use."""

    source: DNSDetectSourceMode | None = None
    """Source in use now (may be the fallback)."""
    inflight_lookups: Int32 = 0
    """Pending RDAP lookups."""


class DNSDetectConfig(Resource, frozen=True, kw_only=True):
    """Settings of dns-detect; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "DNSDetectConfig",
        "dnsdetectconfigs",
        short_names=("dnsdetectcfg",),
        columns=(
            Column("Source", ".status.source"),
            Column("LookupsInFlight", ".status.inflightLookups", "integer"),
            AGE,
        ),
    )
    spec: DNSDetectConfigSpec = DNSDetectConfigSpec()
    """What is wanted."""
    status: DNSDetectConfigStatus = DNSDetectConfigStatus()
    """What has become of it."""
