"""`ugallu verify`: check exported evidence offline, with nothing but the files named."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli.main import DONE, FAILED, Subparsers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugallu.evidence.ports import PublicKey
    from ugallu.evidence.trusted_root import TrustedRoot
    from ugallu.evidence.verify import Policy, Report
    from ugallu.evidence.x509 import Identity

KEY: Final = "ugallu.pub"
TRUSTED_ROOT: Final = "trusted-root.json"
BUNDLE_SUFFIX: Final = ".sigstore.json"
SUBJECT_SUFFIX: Final = ".spec.json"
LEGS: Final = (".fulcio", ".openbao", ".primary")
"""What stands between a name and its suffix where a statement has several bundles."""

NOTE: Final = (
    "the key lay beside the bundle: this proves that the folder is whole, not who made it; "
    "compare the key's id with the one you were told, or pass --key"
)


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `verify`."""
    parser = commands.add_parser(
        "verify",
        help="check exported evidence offline",
        description="Check Sigstore bundles offline: who signed, signature, log entry, inclusion, checkpoint, signed "
        "times, subject.",
        epilog=f"Without --key or --identity, --trusted-root, --subject the files of an export are taken: {KEY}, "
        f"{TRUSTED_ROOT} and NAME{SUBJECT_SUFFIX} beside NAME{BUNDLE_SUFFIX}.",
    )
    parser.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE", help=f"bundle, or a folder of *{BUNDLE_SUFFIX}"
    )
    parser.add_argument("--subject", type=Path, metavar="F", help="the bytes that were attested")
    parser.add_argument("--trusted-root", type=Path, metavar="F", help="the logs and authorities to believe")
    parser.add_argument(
        "--key", type=Path, metavar="F", action="append", default=[], help="a public key to believe, PEM; repeatable"
    )
    parser.add_argument("--identity", metavar="I", default="", help="the name in a keyless signer's certificate")
    parser.add_argument("--issuer", metavar="U", default="", help="who vouches for that name: the issuer's URL")
    parser.add_argument("--type", metavar="T", default="", help="predicate type to expect; `any` takes every one")
    parser.add_argument(
        "--timestamps", metavar="N", type=int, default=0, help="demand so many timestamps of authorities (default: 0)"
    )
    parser.add_argument(
        "--no-certificate-log", action="store_true", help="take certificates that are in no certificate log"
    )
    parser.add_argument(
        "--any", action="store_true", help="of several bundles over one subject, let one that holds be enough"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a bundle")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every bundle; one that does not hold makes the status 1."""
    from ugallu.errors import PermanentError
    from ugallu.evidence import trust as trusts

    who = _identity(args)
    paths = list(_bundles(args.bundles))
    if args.subject and len(paths) > 1 and not args.any:
        raise PermanentError(
            "one subject cannot belong to several bundles",
            where="--subject",
            fix="name one bundle, or pass --any for the bundles of one statement",
        )
    keys = tuple(_key(path) for path in args.key)
    reports = []
    for path in paths:
        known = keys or (() if who else (_key(path.parent / KEY),))
        root = _root(args.trusted_root or path.parent / TRUSTED_ROOT)
        subject = args.subject or _beside(path)
        trust = trusts.Trust(root, (*known, *([who] if who else [])), _policy(args))
        report = trust.check(path.read_bytes(), subject=subject.read_bytes() if subject else None)
        reports.append(report)
        print(_json(path, subject, report) if args.json else "\n".join(_text(path, subject, report)))
    if not args.json and not keys and not who:
        print(f"note: {NOTE}")
    return DONE if trusts.holds(reports, require_all=False) and (args.any or all(r.ok for r in reports)) else FAILED


def _policy(args: argparse.Namespace) -> "Policy":
    from ugallu.evidence.verify import POLICY, Policy

    types = POLICY.predicate_types if not args.type else frozenset() if args.type == "any" else frozenset({args.type})
    return Policy(types, certificate_log=not args.no_certificate_log, timestamps=args.timestamps)


def _identity(args: argparse.Namespace) -> "Identity | None":
    from ugallu.errors import PermanentError
    from ugallu.evidence.x509 import Identity

    if bool(args.identity) is not bool(args.issuer):
        raise PermanentError(
            "a name is worth as much as who vouches for it",
            where="--identity, --issuer",
            fix="pass both",
        )
    return Identity(args.identity, args.issuer) if args.identity else None


def _bundles(paths: "Sequence[Path]") -> "Iterator[Path]":
    from ugallu.errors import PermanentError

    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise PermanentError("no such bundle", where=str(path), fix="name a bundle, or the folder of an export")
            yield path
            continue
        found = sorted(path.glob(f"*{BUNDLE_SUFFIX}"))
        if not found:
            raise PermanentError(f"no *{BUNDLE_SUFFIX} in this folder", where=str(path), fix="name the bundle itself")
        yield from found


def _beside(bundle: Path) -> Path | None:
    name = bundle.name.removesuffix(BUNDLE_SUFFIX)
    for candidate in (name, *(name.removesuffix(leg) for leg in LEGS)):
        subject = bundle.with_name(candidate + SUBJECT_SUFFIX)
        if subject.exists():
            return subject
    return None


def _key(path: Path) -> "PublicKey":
    from ugallu.errors import PermanentError
    from ugallu.evidence import keys

    if not path.exists():
        raise PermanentError(
            "no such key", where=str(path), fix="pass --key FILE, or --identity and --issuer for a keyless signer"
        )
    return keys.from_pem(path.read_bytes(), where=str(path))


def _root(path: Path) -> "TrustedRoot":
    from ugallu.errors import PermanentError
    from ugallu.evidence import trusted_root

    if not path.exists():
        raise PermanentError("no such trusted root", where=str(path), fix="pass --trusted-root FILE")
    try:
        return trusted_root.read(path.read_bytes())
    except PermanentError as error:
        raise PermanentError(error.what, where=str(path), fix="pass the trusted-root.json of the export") from error


def _signer(report: "Report") -> str:
    from ugallu.evidence.ports import PublicKey

    if report.signer is None:
        return ""
    if isinstance(report.signer, PublicKey):
        return f"key {report.signer.key_id}"
    return f"signed by {report.signer.name}"


def _text(path: Path, subject: Path | None, report: "Report") -> list[str]:
    from ugallu.cli.markup import printable

    verified = "verified" if subject else "the bundle verifies, but without the bytes that it is about"
    told = f"{verified}, {_signer(report)}, log entry {report.log_index}"
    lines = [printable(f"{path}: {told if report.ok else f'DOES NOT VERIFY: {report.reason}'}")]
    marks = {"passed": "ok  ", "failed": "FAIL", "skipped": "-   "}
    lines += [f"  {marks[check.outcome.value]} {check.name:<15} {printable(check.detail)}" for check in report.checks]
    lines += [f"       signed at       {at:%Y-%m-%dT%H:%M:%SZ}" for at in sorted(set(report.times)) if report.ok]
    if subject is None:
        lines.append(f"  no subject: nothing named *{SUBJECT_SUFFIX} lies beside it; pass --subject FILE")
    return lines


def _json(path: Path, subject: Path | None, report: "Report") -> str:
    import msgspec

    from ugallu.evidence.ports import PublicKey

    signer = report.signer
    return msgspec.json.encode(
        {
            "bundle": str(path),
            "subject": str(subject) if subject else None,
            "ok": report.ok,
            "reason": report.reason,
            "key": signer.key_id if isinstance(signer, PublicKey) else None,
            "identity": signer if signer is not None and not isinstance(signer, PublicKey) else None,
            "logIndex": report.log_index,
            "signedAt": sorted(set(report.times)),
            "checks": [
                {"name": check.name, "outcome": check.outcome.value, "detail": check.detail} for check in report.checks
            ],
        }
    ).decode()
