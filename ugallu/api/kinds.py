"""Every kind of the API group, in the order of the documentation: what is generated walks this list."""

from typing import Final

from ugallu.api.backup import BackupVerifyResult, BackupVerifyRun
from ugallu.api.bundle import AttestationBundle
from ugallu.api.compliance import ComplianceScanResult, ComplianceScanRun
from ugallu.api.confidential import ConfidentialAttestationResult, ConfidentialAttestationRun
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.dns import DNSDetectConfig
from ugallu.api.event import SecurityEvent
from ugallu.api.forensics import ForensicsConfig
from ugallu.api.gitops import GitopsResponderConfig
from ugallu.api.honeypot import HoneypotConfig
from ugallu.api.meta import Resource
from ugallu.api.platform import AttestorConfig, TTLConfig, WORMConfig
from ugallu.api.response import EventResponse
from ugallu.api.seccomp import SeccompTrainingProfile, SeccompTrainingRun
from ugallu.api.sigma import SigmaRule
from ugallu.api.tenant import TenantBoundary
from ugallu.api.webhook_auditor import WebhookAuditorConfig

KINDS: Final[tuple[type[Resource], ...]] = (
    SecurityEvent,
    EventResponse,
    AttestationBundle,
    SigmaRule,
    AuditDetectionConfig,
    DNSDetectConfig,
    HoneypotConfig,
    WebhookAuditorConfig,
    ForensicsConfig,
    TenantBoundary,
    WORMConfig,
    AttestorConfig,
    TTLConfig,
    GitopsResponderConfig,
    SeccompTrainingRun,
    SeccompTrainingProfile,
    BackupVerifyRun,
    BackupVerifyResult,
    ComplianceScanRun,
    ComplianceScanResult,
    ConfidentialAttestationRun,
    ConfidentialAttestationResult,
)
KIND_ALIASES: Final = {"GitOpsResponderConfig": GitopsResponderConfig.kind_info.name}
"""Other spellings of a kind that files may use; an API server serves one only, so tooling rewrites them."""
