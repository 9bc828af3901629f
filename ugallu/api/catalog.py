"""The catalogue of event types: what an event may be called, its class, its severity and who owns it.

The one list in the tree; policies, schemas and docs are generated from it.
"""

import enum

import msgspec


class EventClass(enum.StrEnum):
    """What sort of fact an event is."""

    DETECTION = "Detection"
    ANOMALY = "Anomaly"
    POLICY_VIOLATION = "PolicyViolation"
    FORENSIC = "Forensic"
    COMPLIANCE = "Compliance"
    AUDIT = "Audit"


class Severity(enum.StrEnum):
    """Five grades, compared by `rank`; the grade chooses how long an event is kept."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """4 for critical down to 0 for info."""
        return _RANKS[self]


_RANKS = {Severity.CRITICAL: 4, Severity.HIGH: 3, Severity.MEDIUM: 2, Severity.LOW: 1, Severity.INFO: 0}


class EventType(msgspec.Struct, frozen=True):
    """A name with its class and default severity; a rule may choose others. `owner` is the component that emits it."""

    name: str
    event_class: EventClass
    severity: Severity
    owner: str = ""
    meaning: str = ""


def _catalogue(*types: EventType) -> dict[str, EventType]:
    return {kind.name: kind for kind in types}


_C, _S = EventClass, Severity

CATALOGUE: dict[str, EventType] = _catalogue(
    EventType(
        "KubernetesAPICall",
        _C.AUDIT,
        _S.INFO,
        "audit-detection",
        "An API request a rule chooses to keep as a plain record.",
    ),
    EventType(
        "WatchSubscription",
        _C.AUDIT,
        _S.LOW,
        "audit-detection",
        "verb watch on sensitive or cluster-wide resources (secrets, configmaps, pods) by a non-system caller.",
    ),
    EventType(
        "ProxyAccess",
        _C.AUDIT,
        _S.MEDIUM,
        "audit-detection",
        "Request to subresource proxy of nodes, pods or services.",
    ),
    EventType(
        "WildcardRBACBinding",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Role written with '*' in verbs, resources or apiGroups, or a binding to such a role.",
    ),
    EventType(
        "ClusterAdminGranted",
        _C.DETECTION,
        _S.CRITICAL,
        "audit-detection",
        "Binding created or changed with $.roleRef.name = cluster-admin.",
    ),
    EventType(
        "PrivilegedPodChange",
        _C.DETECTION,
        _S.CRITICAL,
        "audit-detection",
        "Pod or template with securityContext.privileged = true (containers and initContainers).",
    ),
    EventType(
        "HostPathMount",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Pod or template with a hostPath volume outside an allowed prefix.",
    ),
    EventType("HostNetworkPod", _C.DETECTION, _S.MEDIUM, "audit-detection", "$.spec.hostNetwork = true."),
    EventType("HostPIDPod", _C.DETECTION, _S.HIGH, "audit-detection", "$.spec.hostPID = true."),
    EventType("HostIPCPod", _C.DETECTION, _S.MEDIUM, "audit-detection", "$.spec.hostIPC = true."),
    EventType(
        "CapAddDangerous",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "capabilities.add holds ALL, SYS_ADMIN, SYS_PTRACE, SYS_MODULE, NET_ADMIN, NET_RAW, DAC_READ_SEARCH, BPF "
        "or PERFMON.",
    ),
    EventType(
        "RunAsRootContainer",
        _C.DETECTION,
        _S.LOW,
        "audit-detection",
        "runAsUser = 0 or runAsNonRoot = false.",
    ),
    EventType(
        "ServiceAccountTokenAutomount",
        _C.DETECTION,
        _S.LOW,
        "audit-detection",
        "automountServiceAccountToken = true set explicitly.",
    ),
    EventType(
        "SecretMountedAsEnv",
        _C.DETECTION,
        _S.LOW,
        "audit-detection",
        "env[*].valueFrom.secretKeyRef or envFrom[*].secretRef present.",
    ),
    EventType(
        "ImagePullPolicyAlways",
        _C.DETECTION,
        _S.INFO,
        "audit-detection",
        "imagePullPolicy = Always (remote content may change between restarts).",
    ),
    EventType(
        "LatestImageTag",
        _C.DETECTION,
        _S.LOW,
        "audit-detection",
        "Image tag latest, or neither tag nor digest.",
    ),
    EventType(
        "UnsignedImage",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Image signature missing or invalid, as the policy controller reports it.",
    ),
    EventType(
        "ExecIntoPod",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "create/connect/get on pods/exec or pods/attach.",
    ),
    EventType(
        "PortForwardOpened",
        _C.DETECTION,
        _S.MEDIUM,
        "audit-detection",
        "create/connect/get on pods/portforward.",
    ),
    EventType(
        "ServiceAccountTokenRequest",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "create on serviceaccounts/token by a caller other than kubelets or the account's own controller.",
    ),
    EventType(
        "AnonymousAccess",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Caller system:anonymous (group system:unauthenticated) outside health and discovery paths.",
    ),
    EventType(
        "ImpersonationUsed",
        _C.DETECTION,
        _S.MEDIUM,
        "audit-detection",
        "Audit event carries impersonatedUser and the caller is not allow-listed.",
    ),
    EventType(
        "PrivilegeEscalationAttempt",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Verb escalate, bind or impersonate used, or an RBAC write refused with 403.",
    ),
    EventType(
        "WebhookSideEffectsUnknown",
        _C.DETECTION,
        _S.MEDIUM,
        "webhook-auditor",
        "sideEffects Unknown or Some, when the failure-policy sub-score did not fire.",
    ),
    EventType(
        "FailOpenWebhook",
        _C.DETECTION,
        _S.MEDIUM,
        "audit-detection",
        "Webhook configuration written with failurePolicy = Ignore.",
    ),
    EventType(
        "CRDOverwrite",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "Existing CRD replaced or its conversion, scope or storage version changed by an unexpected caller.",
    ),
    EventType(
        "APIServiceInsecure",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "insecureSkipTLSVerify = true, or an aggregated group taken over.",
    ),
    EventType(
        "LongLivedSecretToken",
        _C.DETECTION,
        _S.MEDIUM,
        "audit-detection",
        "Secret of type kubernetes.io/service-account-token created.",
    ),
    EventType(
        "NamespacePSAWeakened",
        _C.DETECTION,
        _S.HIGH,
        "audit-detection",
        "pod-security enforce label lowered or removed.",
    ),
    EventType(
        "MutatingWebhookHighRisk",
        _C.DETECTION,
        _S.HIGH,
        "webhook-auditor",
        "Risk score ≥ spec.riskThreshold; severity by score (≥85 critical, ≥60 high, ≥30 medium, else low).",
    ),
    EventType(
        "ValidatingWebhookHighRisk",
        _C.DETECTION,
        _S.HIGH,
        "webhook-auditor",
        "Same as above for validating webhooks.",
    ),
    EventType(
        "WebhookCAUntrusted",
        _C.DETECTION,
        _S.MEDIUM,
        "webhook-auditor",
        "caBundle empty, unreadable or not chained to a trusted subject DN.",
    ),
    EventType(
        "WebhookFailOpenCriticalAPI",
        _C.DETECTION,
        _S.HIGH,
        "webhook-auditor",
        "failurePolicy Ignore on secrets, serviceaccounts, token/access reviews or RBAC resources.",
    ),
    EventType(
        "WebhookSecretAccess",
        _C.DETECTION,
        _S.HIGH,
        "webhook-auditor",
        "Rules match those same critical resources (or '*').",
    ),
    EventType("WebhookConfigDeleted", _C.AUDIT, _S.INFO, "webhook-auditor", "Webhook configuration removed."),
    EventType(
        "DNSExfiltration",
        _C.DETECTION,
        _S.HIGH,
        "dns-detect",
        "Repeated long high-entropy leftmost labels on A, AAAA or TXT queries.",
    ),
    EventType(
        "DNSTunneling",
        _C.DETECTION,
        _S.HIGH,
        "dns-detect",
        "Leftmost label decodes as base64 with entropy ≥ 3.5 bits.",
    ),
    EventType(
        "DNSToBlocklistedFQDN",
        _C.DETECTION,
        _S.HIGH,
        "dns-detect",
        "Query name equals or ends with a blocklist entry.",
    ),
    EventType(
        "DNSToYoungDomain",
        _C.DETECTION,
        _S.MEDIUM,
        "dns-detect",
        "Registrable domain younger than thresholdDays by RDAP.",
    ),
    EventType("DNSAnomalousPort", _C.DETECTION, _S.MEDIUM, "dns-detect", "DNS sent to a port other than 53."),
    EventType(
        "CrossTenantSecretAccess",
        _C.DETECTION,
        _S.HIGH,
        "tenant-escape",
        "Account of tenant A reads, lists or watches Secrets of tenant B without allow-list entry.",
    ),
    EventType(
        "CrossTenantHostPathOverlap",
        _C.DETECTION,
        _S.CRITICAL,
        "tenant-escape",
        "Pod created in tenant A mounts a host path owned by tenant B.",
    ),
    EventType(
        "CrossTenantNetworkPolicy",
        _C.DETECTION,
        _S.HIGH,
        "tenant-escape",
        "Policy of tenant A admits ingress from an untrusted namespace of tenant B.",
    ),
    EventType(
        "CrossTenantExec",
        _C.DETECTION,
        _S.CRITICAL,
        "tenant-escape",
        "Process of tenant A executes into a pod of tenant B.",
    ),
    EventType(
        "HoneypotTriggered",
        _C.DETECTION,
        _S.CRITICAL,
        "honeypot",
        "Any non-allow-listed actor touches a decoy (reads only if emitOnRead).",
    ),
    EventType(
        "HoneypotMisplaced",
        _C.DETECTION,
        _S.HIGH,
        "honeypot",
        "Pod created that references a decoy by volume, envFrom or serviceAccountName.",
    ),
    EventType(
        "IncidentCaptureStarted",
        _C.FORENSIC,
        _S.INFO,
        "forensics",
        "A trigger matched and the capture pipeline began.",
    ),
    EventType(
        "IncidentCaptureCompleted",
        _C.FORENSIC,
        _S.HIGH,
        "forensics",
        "All capture steps done; evidence manifest stored.",
    ),
    EventType(
        "IncidentCaptureFailed",
        _C.FORENSIC,
        _S.HIGH,
        "forensics",
        "A capture step failed; signals carry step and cause.",
    ),
    EventType(
        "EvidencePreserved",
        _C.FORENSIC,
        _S.INFO,
        "forensics",
        "One evidence blob was stored under object lock.",
    ),
    EventType("PodFrozen", _C.FORENSIC, _S.INFO, "forensics", "Isolation label and network policy are in place."),
    EventType(
        "PodUnfrozen",
        _C.FORENSIC,
        _S.INFO,
        "forensics",
        "Isolation removed (ack, timer or failure path; signal reason).",
    ),
    EventType(
        "LateralMovementSuspected",
        _C.ANOMALY,
        _S.HIGH,
        "audit-detection (correlator)",
        "One identity reaches exec, token or secret access in several namespaces or nodes within a short window.",
    ),
    EventType(
        "RBACEscalationChain",
        _C.ANOMALY,
        _S.CRITICAL,
        "audit-detection (correlator)",
        "Linked events give an identity more rights step by step up to admin level.",
    ),
    EventType("IncidentBurst", _C.ANOMALY, _S.CRITICAL, "forensics", "Incidents per minute exceed the alert floor."),
    EventType(
        "BehaviorBaselineDeviation",
        _C.ANOMALY,
        _S.MEDIUM,
        "audit-detection (correlator), seccomp-gen (drift)",
        "Identity does verbs or resources never seen in its learned baseline.",
    ),
    EventType(
        "WORMQuotaExceeded",
        _C.ANOMALY,
        _S.HIGH,
        "attestor (WORM writer)",
        "Bucket use above quotas.softQuotaPercent, or the store refuses writes for space.",
    ),
    EventType(
        "WORMIntegrityViolation",
        _C.ANOMALY,
        _S.CRITICAL,
        "attestor, ttl (WORM writer)",
        "Read-back digest or lock date differs from what was written.",
    ),
    EventType("TTLConfigMissing", _C.ANOMALY, _S.MEDIUM, "ttl", "No TTLConfig found; built-in windows in use."),
    EventType(
        "GitOpsConflict",
        _C.ANOMALY,
        _S.MEDIUM,
        "gitops-responder",
        "Change conflicts with the target branch and conflictBehavior is abort.",
    ),
    EventType(
        "SourceRateLimited",
        _C.ANOMALY,
        _S.MEDIUM,
        "emitter library (any component)",
        "Emitter dropped or shed events (bucket, buffer, backpressure); at most one a minute per component.",
    ),
    EventType(
        "AttestorUnavailable",
        _C.ANOMALY,
        _S.HIGH,
        "ttl (watchdog)",
        "Lease ugallu-attestor-leader missing or not renewed for 5 min; repeated each 5 min.",
    ),
    EventType("EtcdBackpressureHigh", _C.ANOMALY, _S.HIGH, "backpressure", "Level enters red (etcd use ≥ 90 %)."),
    EventType(
        "ClockSkewDetected",
        _C.ANOMALY,
        _S.MEDIUM,
        "audit-detection, attestor",
        "Event, log or Rekor time differs from local time beyond tolerance.",
    ),
    EventType(
        "AuditLogStreamSilent",
        _C.ANOMALY,
        _S.HIGH,
        "audit-detection",
        "No audit event from a source for longer than the silence limit.",
    ),
    EventType(
        "TetragonDataInconsistent",
        _C.ANOMALY,
        _S.MEDIUM,
        "tenant-escape, seccomp-gen, dns-detect",
        "Bridge events contradict each other or miss required fields.",
    ),
    EventType(
        "KeyRotationEmergency",
        _C.ANOMALY,
        _S.CRITICAL,
        "attestor",
        "Signing key is past its rotation deadline or reported compromised.",
    ),
    EventType(
        "ImageRevocation",
        _C.ANOMALY,
        _S.CRITICAL,
        "attestor",
        "Digest or certificate of a running image appears on the revocation list.",
    ),
    EventType(
        "AttestorRecovered",
        _C.ANOMALY,
        _S.INFO,
        "ttl (watchdog)",
        "Lease fresh again after AttestorUnavailable.",
    ),
    EventType(
        "WebhookEvalFailed",
        _C.ANOMALY,
        _S.HIGH,
        "webhook-auditor",
        "Evaluation of a webhook configuration raised an error.",
    ),
    EventType("DNSSourceSilent", _C.ANOMALY, _S.HIGH, "dns-detect", "DNS source gives nothing for over 60 s."),
    EventType(
        "DNSConfigMissing",
        _C.ANOMALY,
        _S.MEDIUM,
        "dns-detect",
        "DNSDetectConfig default absent; defaults in use.",
    ),
    EventType(
        "DNSDetectorDegraded",
        _C.ANOMALY,
        _S.LOW,
        "dns-detect",
        "Fallback source or missing RDAP leaves detectors without input.",
    ),
    EventType(
        "AuditBridgeSilent",
        _C.ANOMALY,
        _S.HIGH,
        "tenant-escape, honeypot",
        "Audit bus unreachable or silent beyond the limit.",
    ),
    EventType("TenantBoundaryEmpty", _C.ANOMALY, _S.LOW, "tenant-escape", "A TenantBoundary matches no namespace."),
    EventType("TenantBoundaryOverlap", _C.ANOMALY, _S.HIGH, "tenant-escape", "Two boundaries claim one namespace."),
    EventType(
        "TenantEscapeSourceLagged",
        _C.ANOMALY,
        _S.MEDIUM,
        "tenant-escape",
        "Bus or bridge reports dropped or late events.",
    ),
    EventType(
        "HoneypotConfigInvalid",
        _C.ANOMALY,
        _S.MEDIUM,
        "honeypot",
        "Two configs declare one decoy, or the name collides with a real object.",
    ),
    EventType(
        "HoneypotDecoyMissing",
        _C.ANOMALY,
        _S.HIGH,
        "honeypot",
        "A declared decoy was deleted or cannot be created.",
    ),
    EventType("SeccompTrainingStarted", _C.POLICY_VIOLATION, _S.INFO, "seccomp-gen", "Training run begins."),
    EventType("SeccompTrainingCompleted", _C.POLICY_VIOLATION, _S.INFO, "seccomp-gen", "Profile written."),
    EventType("SeccompTrainingFailed", _C.POLICY_VIOLATION, _S.HIGH, "seccomp-gen", "Run failed; signal reason."),
    EventType("BackupVerifyStarted", _C.COMPLIANCE, _S.INFO, "backup-verify", "Run begins."),
    EventType(
        "BackupVerifyCompleted",
        _C.COMPLIANCE,
        _S.INFO,
        "backup-verify",
        "Run done, worst finding below high.",
    ),
    EventType(
        "BackupVerifyMismatch",
        _C.DETECTION,
        _S.HIGH,
        "backup-verify",
        "Worst finding is high or critical; event severity = worst.",
    ),
    EventType("BackupVerifyFailed", _C.ANOMALY, _S.HIGH, "backup-verify", "Run could not be carried out."),
    EventType("ComplianceScanStarted", _C.COMPLIANCE, _S.INFO, "compliance-scan", "Run begins."),
    EventType(
        "ComplianceScanCompleted",
        _C.COMPLIANCE,
        _S.INFO,
        "compliance-scan",
        "Run done; severity = worst check (info if none); class Detection when worst ≥ alertOn.",
    ),
    EventType(
        "ComplianceScanFailed",
        _C.ANOMALY,
        _S.HIGH,
        "compliance-scan",
        "Scanner could not run; signal reason.",
    ),
    EventType(
        "AttestationStarted",
        _C.COMPLIANCE,
        _S.INFO,
        "confidential-attestation",
        "Run begins on the target node.",
    ),
    EventType(
        "AttestationVerified",
        _C.COMPLIANCE,
        _S.INFO,
        "confidential-attestation",
        "Quote verified against policy.",
    ),
    EventType(
        "AttestationFailed",
        _C.DETECTION,
        _S.CRITICAL,
        "confidential-attestation",
        "Chain or measurement check failed, or the agent errored.",
    ),
)
