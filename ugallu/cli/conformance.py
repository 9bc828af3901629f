"""The client protocol of the Sigstore conformance suite: `verify-bundle` and `sign-bundle`.

By the verifier that `ugallu verify` uses, and by what the attestor signs, stamps and logs with. Nothing is fetched: the
suite's production and staging roots and signing configs are files that the caller names (`--root`, `--staging-root`,
`--config`, `--staging-config`).
Source of the protocol: github.com/sigstore/sigstore-conformance, `docs/cli_protocol.md`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence import keys, statement, trusted_root
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.verify import Policy, verify
from ugallu.evidence.x509 import Identity

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
ANYTHING: Final = Policy(predicate_types=frozenset(), bare_files=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one question of the suite: 0 when it verifies, or was signed, 1 when not, 2 for wrong use."""
    args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    ask: Callable[[argparse.Namespace], str] = args.ask
    try:
        reason = ask(args)
    except (UgalluError, OSError) as error:
        reason = str(error)
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ugallu-conformance", description=__doc__)
    parser.add_argument("--root", type=Path, help="trusted root to take without --trusted-root")
    parser.add_argument("--staging-root", type=Path, help="trusted root to take with --staging")
    parser.add_argument("--config", type=Path, help="signing config to take without --signing-config")
    parser.add_argument("--staging-config", type=Path, help="signing config to take with --staging")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("verify-bundle", help="verify a bundle")
    check.add_argument("--staging", action="store_true")
    check.add_argument("--bundle", type=Path, required=True)
    check.add_argument("--certificate-identity", default="")
    check.add_argument("--certificate-oidc-issuer", default="")
    check.add_argument("--key", type=Path)
    check.add_argument("--trusted-root", type=Path)
    check.add_argument("artifact", metavar="FILE_OR_DIGEST")
    check.set_defaults(ask=_verify)
    make = commands.add_parser("sign-bundle", help="sign a statement about a file")
    make.add_argument("--staging", action="store_true")
    make.add_argument("--identity-token", required=True)
    make.add_argument("--bundle", type=Path, required=True)
    make.add_argument("--trusted-root", type=Path)
    make.add_argument("--signing-config", type=Path)
    make.add_argument("artifact", type=Path, metavar="FILE")
    make.set_defaults(ask=_sign)
    return parser


def _verify(args: argparse.Namespace) -> str:
    """Return why the bundle is refused, empty when it is not."""
    root = _root(args)
    found = DIGEST.fullmatch(args.artifact)
    by_digest = found is not None and not Path(args.artifact).exists()
    report = verify(
        args.bundle.read_bytes(),
        key=keys.from_pem(args.key.read_bytes(), where=str(args.key)) if args.key else (),
        identity=None if args.key else Identity(args.certificate_identity, args.certificate_oidc_issuer),
        root=root,
        subject=None if by_digest else Path(args.artifact).read_bytes(),
        digest=bytes.fromhex(found[1]) if found is not None and by_digest else None,
        policy=ANYTHING,
    )
    return "" if report.ok else report.reason


def _sign(args: argparse.Namespace) -> str:
    """Write a bundle; returns nothing, what keeps it from being made is raised."""
    import anyio

    from ugallu.cli.conformance_sign import read_config, sign

    config = args.signing_config or (args.staging_config if args.staging else args.config)
    if config is None:
        raise PermanentError("no signing config", where="ugallu-conformance", fix="pass --signing-config, or --config")
    services, root = read_config(config.read_bytes()), _root(args)
    about = statement.subject_of(args.artifact.name, args.artifact.read_bytes())
    args.bundle.write_bytes(anyio.run(sign, args.identity_token, about, services, root))
    return ""


def _root(args: argparse.Namespace) -> TrustedRoot:
    path = args.trusted_root or (args.staging_root if args.staging else args.root)
    if path is None:
        raise PermanentError("no trusted root", where="ugallu-conformance", fix="pass --trusted-root, or --root before")
    return trusted_root.read(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
