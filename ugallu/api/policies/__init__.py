"""The admission policies of an installation, as data: an API server enforces them, and so does the embedded cluster."""

from ugallu.api.policies.configs import (
    dns_detect_config_spec,
    honeypot_config_spec,
    tenant_boundary_spec,
    webhook_auditor_config_spec,
)
from ugallu.api.policies.events import forensic_ack_restricted, subject_discriminator, type_validation
from ugallu.api.policies.evidence import ack_restricted, spec_immutable, ttl_annotation_only
from ugallu.api.policies.pods import frozen_label_restricted
from ugallu.api.policies.policy import Policy
from ugallu.api.policies.rules import sigma_rule_spec
from ugallu.api.policies.runs import (
    backup_verify_run,
    compliance_scan_run,
    confidential_attestation_run,
    seccomp_training_run,
)
from ugallu.api.policies.values import PolicyValues

__all__ = ["Policy", "PolicyValues", "policies"]


def policies(values: PolicyValues | None = None) -> tuple[Policy, ...]:
    """Return the 16 policies in the order of the documentation; the eighth comes as two documents."""
    values = values or PolicyValues()
    return (
        spec_immutable(values),
        subject_discriminator(),
        ttl_annotation_only(values),
        ack_restricted(values),
        type_validation(values),
        sigma_rule_spec(),
        frozen_label_restricted(values),
        *forensic_ack_restricted(values),
        webhook_auditor_config_spec(values),
        dns_detect_config_spec(values),
        tenant_boundary_spec(),
        honeypot_config_spec(),
        seccomp_training_run(),
        backup_verify_run(),
        compliance_scan_run(),
        confidential_attestation_run(),
    )
