"""Policies on what people ask for by a Run object: 13 to 16."""

from typing import Final

from ugallu.api.catalog import Severity
from ugallu.api.policies.expressions import GUARDS, WRITES, ours, short, texts, within
from ugallu.api.policies.policy import Policy, Validation, Variable

FRAMEWORKS: Final = ("soc2", "iso27001", "pci-dss", "nist-800-53", "custom")
SECCOMP_ACTIONS: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

MAX_FRAMEWORKS: Final = 8

_SPEC: Final = Variable("spec", "dyn(object).?spec.orValue({})")


def _given(field: str) -> str:
    return f"variables.spec.?{field}.orValue('')"


def _one_of(field: str, *values: str) -> Validation:
    return Validation(f"{_given(field)} in {texts(values)}", f"spec.{field} must be one of {', '.join(values)}")


def _time_limit(field: str, limit: str) -> Validation:
    return Validation(
        within(_given(field), limit), f"spec.{field} must be a duration above 0 and at most {limit}, such as {limit}"
    )


def seccomp_training_run() -> Policy:
    """13: a training ends, and observes some of the Pods of one namespace."""
    return Policy(
        name="ugallu.seccomp-training-run",
        about="A training run names its namespace, and stays within a day.",
        rules=(ours(WRITES, "seccomptrainingruns"),),
        conditions=GUARDS,
        variables=(_SPEC,),
        validations=(
            Validation(f"{_given('targetNamespace')} != ''", "spec.targetNamespace must not be empty"),
            _time_limit("duration", "24h"),
            Validation(
                "variables.spec.?replicaRatio.orValue(0) >= 1 && variables.spec.?replicaRatio.orValue(0) <= 100",
                "spec.replicaRatio must be 1 to 100 percent",
            ),
            _one_of("defaultAction", *SECCOMP_ACTIONS),
        ),
    )


def backup_verify_run() -> Policy:
    """14: a restore goes to a sandbox, and a snapshot's name leads nowhere else."""
    return Policy(
        name="ugallu.backup-verify-run",
        about="A backup check names a backup, restores into a sandbox only, and stays within an hour.",
        rules=(ours(WRITES, "backupverifyruns"),),
        conditions=GUARDS,
        variables=(
            _SPEC,
            Variable("backup", "variables.spec.?backupRef.?name.orValue('')"),
            Variable("restores", f"{_given('mode')} == 'full-restore'"),
        ),
        validations=(
            _one_of("backend", "velero", "etcd-snapshot"),
            _one_of("mode", "checksum-only", "full-restore"),
            Validation("variables.backup != ''", "spec.backupRef.name must not be empty"),
            Validation(
                f"!variables.restores || {_given('sandboxNamespace')}.endsWith('-bvsandbox')",
                'spec.sandboxNamespace must end with "-bvsandbox" for mode full-restore',
            ),
            Validation(
                f"!variables.restores || {_given('backend')} == 'velero'",
                "spec.mode full-restore is possible with backend velero only",
            ),
            Validation(
                f"{_given('backend')} != 'etcd-snapshot'"
                " || !variables.backup.contains('/') && !variables.backup.contains('..')",
                'spec.backupRef.name of an etcd snapshot is a file name, without "/" or ".."',
            ),
            _time_limit("timeout", "1h"),
        ),
    )


def compliance_scan_run() -> Policy:
    """15: a scan names its benchmark once, and maps checks to controls that exist."""
    return Policy(
        name="ugallu.compliance-scan-run",
        about="A scan names backend and benchmark, maps checks to known frameworks, and stays within 30 minutes.",
        rules=(ours(WRITES, "compliancescanruns"),),
        conditions=GUARDS,
        variables=(
            _SPEC,
            Variable("profile", _given("profile")),
            Variable("benchmark", _given("benchmark")),
            Variable("mappings", "variables.spec.?controlMappings.orValue([])"),
        ),
        validations=(
            _one_of("backend", "kube-bench", "falco", "cel", "cel-custom"),
            Validation(
                "variables.profile != '' || variables.benchmark != ''",
                "spec.profile (or spec.benchmark) must not be empty",
            ),
            Validation(
                "variables.profile == '' || variables.benchmark == '' || variables.profile == variables.benchmark",
                "spec.profile and spec.benchmark must be equal where both are set",
            ),
            Validation(
                f"{_given('alertOn')} in {texts(('', *(grade.value for grade in Severity)))}",
                f"spec.alertOn must be one of {', '.join(grade.value for grade in Severity)}",
            ),
            short("controlMappings"),
            Validation(
                f"variables.mappings.all(m, size(m.?frameworks.orValue([])) <= {MAX_FRAMEWORKS})",
                f"spec.controlMappings[].frameworks: at most {MAX_FRAMEWORKS} entries",
            ),
            Validation(
                "variables.mappings.all(m, m.?checkID.orValue('') != '' && size(m.?frameworks.orValue([])) > 0)",
                "spec.controlMappings[]: each needs a checkID and at least one of frameworks",
            ),
            Validation(
                "variables.mappings.all(m, m.?frameworks.orValue([]).all(f,"
                f" f.?name.orValue('') in {texts(FRAMEWORKS)} && f.?controlID.orValue('') != ''))",
                f"spec.controlMappings[].frameworks[]: name must be one of {', '.join(FRAMEWORKS)},"
                " and controlID not empty",
            ),
            _time_limit("timeout", "30m"),
        ),
    )


def confidential_attestation_run() -> Policy:
    """16: an attestation asks one node, with a value that nobody can have an answer ready for."""
    return Policy(
        name="ugallu.confidential-attestation-run",
        about="An attestation names node and hardware, carries a nonce worth the name, and stays within 5 minutes.",
        rules=(ours(WRITES, "confidentialattestationruns"),),
        conditions=GUARDS,
        variables=(_SPEC, Variable("nonce", _given("nonce"))),
        validations=(
            _one_of("backend", "tpm", "sev-snp", "tdx"),
            Validation(f"{_given('targetNodeName')} != ''", "spec.targetNodeName must not be empty"),
            Validation("size(variables.nonce) >= 16", "spec.nonce must have at least 16 characters"),
            Validation("size(variables.nonce) <= 256", "spec.nonce must have at most 256 characters"),
            _time_limit("timeout", "5m"),
        ),
    )
