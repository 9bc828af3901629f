"""What an installation's evidence is checked against: its trusted root, and whose signatures it makes."""

from collections.abc import Sequence

import msgspec

from ugallu.evidence import verify
from ugallu.evidence.ports import PublicKey
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.x509 import Identity


class Trust(msgspec.Struct, frozen=True):
    """Keys and identities that sign here, or ever did, and what their bundles are checked against."""

    root: TrustedRoot
    signers: tuple[PublicKey | Identity, ...]
    policy: verify.Policy = verify.POLICY

    def check(self, content: bytes, *, subject: bytes | None = None) -> verify.Report:
        """Verify a bundle as one of ours; the report is that of the signer it holds under, or of the closest."""
        keys = [signer for signer in self.signers if isinstance(signer, PublicKey)]
        names = [signer for signer in self.signers if isinstance(signer, Identity)]
        reports = [
            verify.verify(content, identity=name, root=self.root, subject=subject, policy=self.policy) for name in names
        ]
        if keys or not names:
            reports.append(verify.verify(content, key=keys, root=self.root, subject=subject, policy=self.policy))
        return max(reports, key=_merit)


def holds(reports: Sequence[verify.Report], *, require_all: bool) -> bool:
    """Tell what several signatures over one statement are worth: all of them must hold, or one is enough.

    They must be about the same statement in either case: two statements prove two things.
    """
    good = [report for report in reports if report.ok]
    if not good or (require_all and len(good) != len(reports)):
        return False
    return all(report.statement == good[0].statement for report in good)


def _merit(report: verify.Report) -> tuple[bool, int]:
    return report.ok, -sum(check.outcome is verify.Outcome.FAILED for check in report.checks)
