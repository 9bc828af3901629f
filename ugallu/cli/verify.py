"""`ugallu verify`: check exported evidence offline, with nothing but the files named."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli.main import DONE, FAILED, Subparsers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugallu.evidence.ports import PublicKey
    from ugallu.evidence.trusted_root import TrustedRoot
    from ugallu.evidence.verify import Report

KEY: Final = "ugallu.pub"
TRUSTED_ROOT: Final = "trusted-root.json"
BUNDLE_SUFFIX: Final = ".sigstore.json"
SUBJECT_SUFFIX: Final = ".spec.json"

NOTE: Final = (
    "the key lay beside the bundle: this proves that the folder is whole, not who made it; "
    "compare the key's id with the one you were told, or pass --key"
)


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `verify`."""
    parser = commands.add_parser(
        "verify",
        help="check exported evidence offline",
        description="Check Sigstore bundles offline: signature, log entry, inclusion, checkpoint, subject.",
        epilog=f"Without --key, --trusted-root, --subject the files of an export are taken: {KEY}, {TRUSTED_ROOT} and "
        f"NAME{SUBJECT_SUFFIX} beside NAME{BUNDLE_SUFFIX}.",
    )
    parser.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE", help=f"bundle, or a folder of *{BUNDLE_SUFFIX}"
    )
    parser.add_argument("--subject", type=Path, metavar="F", help="the bytes that were attested")
    parser.add_argument("--trusted-root", type=Path, metavar="F", help="the logs to believe")
    signer = parser.add_mutually_exclusive_group()
    signer.add_argument("--key", type=Path, metavar="F", help="the public key to believe, PEM")
    signer.add_argument("--identity", metavar="I", help="the identity in a keyless signer's certificate")
    parser.add_argument("--issuer", metavar="U", help="who vouches for that identity")
    parser.add_argument("--json", action="store_true", help="one JSON object a bundle")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every bundle; one that does not hold makes the status 1."""
    from ugallu.errors import PermanentError
    from ugallu.evidence.verify import verify

    if args.identity or args.issuer:
        raise PermanentError(
            "this release checks bundles signed with a key, not certificates",
            where="--identity, --issuer",
            fix="pass --key, or use `cosign verify-blob-attestation`",
        )
    paths = list(_bundles(args.bundles))
    if args.subject and len(paths) > 1:
        raise PermanentError("one subject cannot belong to several bundles", where="--subject", fix="name one bundle")
    good = True
    for path in paths:
        key = _key(args.key or path.parent / KEY)
        subject = args.subject or _beside(path)
        report = verify(
            path.read_bytes(),
            key=key,
            root=_root(args.trusted_root or path.parent / TRUSTED_ROOT),
            subject=subject.read_bytes() if subject else None,
        )
        good &= report.ok
        print(_json(path, subject, key, report) if args.json else "\n".join(_text(path, subject, key, report)))
    if not args.json and not args.key:
        print(f"note: {NOTE}")
    return DONE if good else FAILED


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
    subject = bundle.with_name(bundle.name.removesuffix(BUNDLE_SUFFIX) + SUBJECT_SUFFIX)
    return subject if subject.exists() else None


def _key(path: Path) -> "PublicKey":
    from ugallu.errors import PermanentError
    from ugallu.evidence import keys

    if not path.exists():
        raise PermanentError("no such key", where=str(path), fix="pass --key FILE")
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


def _text(path: Path, subject: Path | None, key: "PublicKey", report: "Report") -> list[str]:
    from ugallu.cli.markup import printable

    verified = "verified" if subject else "the bundle verifies, but without the bytes that it is about"
    told = f"{verified}, key {key.key_id}, log entry {report.log_index}"
    lines = [printable(f"{path}: {told if report.ok else f'DOES NOT VERIFY: {report.reason}'}")]
    marks = {"passed": "ok  ", "failed": "FAIL", "skipped": "-   "}
    lines += [f"  {marks[check.outcome.value]} {check.name:<11}{printable(check.detail)}" for check in report.checks]
    if subject is None:
        lines.append(f"  no subject: nothing named *{SUBJECT_SUFFIX} lies beside it; pass --subject FILE")
    return lines


def _json(path: Path, subject: Path | None, key: "PublicKey", report: "Report") -> str:
    import msgspec

    return msgspec.json.encode(
        {
            "bundle": str(path),
            "subject": str(subject) if subject else None,
            "ok": report.ok,
            "reason": report.reason,
            "key": key.key_id,
            "logIndex": report.log_index,
            "checks": [
                {"name": check.name, "outcome": check.outcome.value, "detail": check.detail} for check in report.checks
            ],
        }
    ).decode()
