"""WebhookAuditorConfig: how admission webhooks are scored."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire
from ugallu.api.scalars import Int32


class WebhookIgnoreRule(Wire, frozen=True, kw_only=True):
    """Webhook configurations that are not scored."""

    api_version_glob: str = ""
    """Glob on apiVersion; empty = any."""
    name_globs: tuple[str, ...]
    """Globs on the configuration name."""


class TrustedCASource(Wire, frozen=True, kw_only=True):
    """A namespace that may hold the CA of a webhook."""

    namespace: str
    """Namespace name."""


class WebhookAuditorConfigSpec(Config, frozen=True, kw_only=True):
    """What is scored, and from which score on it is reported."""

    risk_threshold: Annotated[int, Meta(ge=0, le=100, extra_json_schema={"format": "int32"})] = 60
    """Score at or above which the HighRisk event fires."""
    ignore: tuple[WebhookIgnoreRule, ...] = ()
    """Configurations to skip."""
    trusted_subject_dns: tuple[str, ...] = field(default=(), name="trustedSubjectDNs")
    """RFC 4514 subject names of trusted CAs."""
    trusted_ca_sources: tuple[TrustedCASource, ...] = ()
    """Namespaces whose Secrets may be read for CA bundles."""


class WebhookAuditorConfigStatus(ConfigStatus, frozen=True, kw_only=True):
    """Whether the settings are in force, and what was seen."""

    observed_webhooks: Int32 = 0
    """Webhook configurations seen."""


class WebhookAuditorConfig(Resource, frozen=True, kw_only=True):
    """Settings of webhook-auditor; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "WebhookAuditorConfig",
        "webhookauditorconfigs",
        short_names=("webhookauditorcfg",),
        columns=(
            Column("Threshold", ".spec.riskThreshold", "integer"),
            Column("Observed", ".status.observedWebhooks", "integer"),
            AGE,
        ),
    )
    spec: WebhookAuditorConfigSpec = WebhookAuditorConfigSpec()
    """What is wanted."""
    status: WebhookAuditorConfigStatus = WebhookAuditorConfigStatus()
    """What has become of it."""
