"""The client protocol of the Sigstore conformance suite: `verify-bundle`, by the verifier that `ugallu verify` uses.

Nothing is fetched: the suite's production and staging roots are files that the caller names (`--root`,
`--staging-root`).
Source of the protocol: github.com/sigstore/sigstore-conformance, `docs/cli_protocol.md`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ugallu.errors import PermanentError
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.verify import Policy, verify
from ugallu.evidence.x509 import Identity

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
ANYTHING: Final = Policy(predicate_types=frozenset(), bare_files=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one question of the suite: 0 when the bundle verifies, 1 when it does not, 2 for wrong use."""
    args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        reason = _verify(args)
    except (PermanentError, OSError) as error:
        reason = str(error)
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ugallu-conformance", description=__doc__)
    parser.add_argument("--root", type=Path, help="trusted root to take without --trusted-root")
    parser.add_argument("--staging-root", type=Path, help="trusted root to take with --staging")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("verify-bundle", help="verify a bundle")
    check.add_argument("--staging", action="store_true")
    check.add_argument("--bundle", type=Path, required=True)
    check.add_argument("--certificate-identity", default="")
    check.add_argument("--certificate-oidc-issuer", default="")
    check.add_argument("--key", type=Path)
    check.add_argument("--trusted-root", type=Path)
    check.add_argument("artifact", metavar="FILE_OR_DIGEST")
    return parser


def _verify(args: argparse.Namespace) -> str:
    """Return why the bundle is refused, empty when it is not."""
    root = args.trusted_root or (args.staging_root if args.staging else args.root)
    if root is None:
        raise PermanentError("no trusted root", where="ugallu-conformance", fix="pass --trusted-root, or --root before")
    found = DIGEST.fullmatch(args.artifact)
    by_digest = found is not None and not Path(args.artifact).exists()
    report = verify(
        args.bundle.read_bytes(),
        key=keys.from_pem(args.key.read_bytes(), where=str(args.key)) if args.key else (),
        identity=None if args.key else Identity(args.certificate_identity, args.certificate_oidc_issuer),
        root=trusted_root.read(root.read_bytes()),
        subject=None if by_digest else Path(args.artifact).read_bytes(),
        digest=bytes.fromhex(found[1]) if found is not None and by_digest else None,
        policy=ANYTHING,
    )
    return "" if report.ok else report.reason


if __name__ == "__main__":
    sys.exit(main())
