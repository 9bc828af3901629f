"""Cases of 13 to 16: the four kinds of runs."""

from typing import Any, Final

from ugallu.api.backup import BackupVerifyRun
from ugallu.api.compliance import ComplianceScanRun
from ugallu.api.confidential import ConfidentialAttestationRun
from ugallu.api.meta import Kind
from ugallu.api.seccomp import SeccompTrainingRun
from ugallu.testing.contracts.policies.case import Case, Document, changed

SECCOMP: Final[tuple[Kind, Document]] = (
    SeccompTrainingRun.kind_info,
    {
        "spec": {
            "targetSelector": {},
            "targetNamespace": "shop",
            "duration": "30m",
            "replicaRatio": 50,
            "defaultAction": "SCMP_ACT_ERRNO",
        }
    },
)
BACKUP: Final[tuple[Kind, Document]] = (
    BackupVerifyRun.kind_info,
    {"spec": {"backend": "velero", "backupRef": {"name": "nightly"}, "mode": "checksum-only", "timeout": "15m"}},
)
COMPLIANCE: Final[tuple[Kind, Document]] = (
    ComplianceScanRun.kind_info,
    {"spec": {"backend": "kube-bench", "profile": "cis-1.8", "timeout": "10m"}},
)
CONFIDENTIAL: Final[tuple[Kind, Document]] = (
    ConfidentialAttestationRun.kind_info,
    {"spec": {"backend": "tpm", "targetNodeName": "n", "nonce": "0123456789abcdef", "timeout": "2m"}},
)

_Edits = tuple[tuple[str, dict[str, object], str], ...]
"""What a case is called, what it changes, and what is said to it."""


def _cases(policy: str, base: tuple[Kind, Document], edits: _Edits, *, by_schema: _Edits = ()) -> list[Case]:
    kind, document = base

    def edited(changes: dict[str, object]) -> Document:
        new = document
        for path, value in changes.items():
            new = changed(new, f"spec.{path}", value)
        return new

    common: dict[str, Any] = {"policy": policy, "kind": kind}
    cases = [Case(says=says, new=edited(changes), refused=refused, **common) for says, changes, refused in edits]
    cases += [
        Case(says=says, new=edited(changes), refused=refused, by_schema=True, **common)
        for says, changes, refused in by_schema
    ]
    broken = next(edited(changes) for _, changes, refused in edits if refused)
    finalized = changed(broken, "metadata.finalizers", ["ugallu.io/hold"])
    return [
        *cases,
        Case(
            says="what was stored before is labelled",
            old=broken,
            new=changed(broken, "metadata.labels.a", "b"),
            **common,
        ),
        Case(says="what was stored before is let go", old=finalized, new=broken, **common),
    ]


def _time_limits(field: str, most: str, more: str) -> _Edits:
    said = f"spec.{field} must be a duration"
    return (
        (f"{field} at its limit", {field: most}, ""),
        (f"{field} in seconds", {field: "90s"}, ""),
        (f"{field} with a fraction", {field: "1.5m"}, ""),
        (f"{field} in microseconds", {field: "5000\u00b5s"}, ""),
        (f"{field} beyond its limit", {field: more}, said),
        (f"{field} of nothing", {field: "0s"}, said),
        (f"{field} in days", {field: "1d"}, said),
        (f"{field} below zero", {field: "-1m"}, said),
        (f"{field} in words", {field: "soon"}, said),
        (f"{field} empty", {field: ""}, said),
        (f"{field} beyond all numbers", {field: "9" * 30 + "h"}, said),
    )


_CONTROL: Final = {"name": "soc2", "controlID": "CC6.1"}

RUN_CASES: Final[tuple[Case, ...]] = (
    *_cases(
        "seccomp-training-run",
        SECCOMP,
        (
            ("a training", {}, ""),
            ("no namespace", {"targetNamespace": ""}, "spec.targetNamespace"),
            ("every replica", {"replicaRatio": 100}, ""),
            *_time_limits("duration", "24h", "24h1s"),
        ),
        by_schema=(
            ("no replica", {"replicaRatio": 0}, "replicaRatio"),
            ("more than every replica", {"replicaRatio": 101}, "replicaRatio"),
            ("an action of its own", {"defaultAction": "SCMP_ACT_ALLOW"}, "defaultAction"),
        ),
    ),
    *_cases(
        "backup-verify-run",
        BACKUP,
        (
            ("a checksum", {}, ""),
            ("a snapshot", {"backend": "etcd-snapshot"}, ""),
            ("no backup's name", {"backupRef.name": ""}, "spec.backupRef.name"),
            ("a restore into a sandbox", {"mode": "full-restore", "sandboxNamespace": "a-bvsandbox"}, ""),
            ("a restore elsewhere", {"mode": "full-restore", "sandboxNamespace": "shop"}, "-bvsandbox"),
            ("a restore nowhere", {"mode": "full-restore"}, "-bvsandbox"),
            (
                "a restore of a snapshot",
                {"backend": "etcd-snapshot", "mode": "full-restore", "sandboxNamespace": "a-bvsandbox"},
                "velero only",
            ),
            ("a snapshot in a folder", {"backend": "etcd-snapshot", "backupRef.name": "a/b"}, "backupRef.name"),
            ("a snapshot above", {"backend": "etcd-snapshot", "backupRef.name": ".."}, "backupRef.name"),
            *_time_limits("timeout", "1h", "1h1s"),
        ),
        by_schema=(
            ("another backend", {"backend": "tar"}, "backend"),
            ("another mode", {"mode": "hope"}, "mode"),
        ),
    ),
    *_cases(
        "compliance-scan-run",
        COMPLIANCE,
        (
            ("a scan", {}, ""),
            ("the short name of the CEL backend", {"backend": "cel"}, ""),
            ("the long name of the CEL backend", {"backend": "cel-custom"}, ""),
            ("a benchmark instead", {"profile": ..., "benchmark": "cis"}, ""),
            ("both the same", {"profile": "cis", "benchmark": "cis"}, ""),
            ("both, not the same", {"profile": "cis", "benchmark": "nsa"}, "must be equal"),
            ("neither", {"profile": ...}, "must not be empty"),
            ("an empty profile", {"profile": ""}, "must not be empty"),
            ("a mapping", {"controlMappings": [{"checkID": "1", "frameworks": [_CONTROL]}]}, ""),
            (
                "as many mappings as there can be",
                {"controlMappings": [{"checkID": "1", "frameworks": [_CONTROL] * 8}] * 1024},
                "",
            ),
            (
                "a mapping more",
                {"controlMappings": [{"checkID": "1", "frameworks": [_CONTROL]}] * 1025},
                "at most 1024 entries",
            ),
            (
                "nine frameworks",
                {"controlMappings": [{"checkID": "1", "frameworks": [_CONTROL] * 9}]},
                "at most 8 entries",
            ),
            ("a mapping of no check", {"controlMappings": [{"checkID": "", "frameworks": [_CONTROL]}]}, "checkID"),
            ("a mapping to nothing", {"controlMappings": [{"checkID": "1", "frameworks": []}]}, "frameworks"),
            (
                "a mapping to no control",
                {"controlMappings": [{"checkID": "1", "frameworks": [{"name": "soc2", "controlID": ""}]}]},
                "controlID",
            ),
            *_time_limits("timeout", "30m", "30m1s"),
        ),
        by_schema=(
            ("another backend", {"backend": "guess"}, "backend"),
            ("another severity", {"alertOn": "dreadful"}, "alertOn"),
            (
                "a mapping to a framework of its own",
                {"controlMappings": [{"checkID": "1", "frameworks": [{"name": "mine", "controlID": "1"}]}]},
                "frameworks",
            ),
        ),
    ),
    *_cases(
        "confidential-attestation-run",
        CONFIDENTIAL,
        (
            ("an attestation", {}, ""),
            ("no node", {"targetNodeName": ""}, "spec.targetNodeName"),
            ("a nonce too short", {"nonce": "0123456789abcde"}, "at least 16"),
            ("the longest nonce", {"nonce": "a" * 256}, ""),
            ("a nonce too long", {"nonce": "a" * 257}, "at most 256"),
            *_time_limits("timeout", "5m", "5m1s"),
        ),
        by_schema=(("another backend", {"backend": "oracle"}, "backend"),),
    ),
)
