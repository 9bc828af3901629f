"""`ugallu verify`: check exported evidence offline, with nothing but the files named.

A folder with a manifest is checked as a whole (`verify_folder`), anything else bundle by bundle.
"""

import argparse
import sys
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
MAX_BUNDLE: Final = 9 << 20
"""A little more than the verifier takes, which says why it does not."""
MAX_SUBJECT: Final = 64 << 20
MAX_KEY: Final = 64 << 10
LEGS: Final = (".fulcio", ".openbao", ".primary")
"""What stands between a name and its suffix where a statement has several bundles."""

NOTE: Final = (
    "the key lay beside the bundle: this proves that the folder is whole, not who made it; "
    "compare the key's id with the one you were told, or pass --key"
)
ROOT_NOTE: Final = (
    "the trusted root lay beside the bundle: whoever made the one may have made the other, so log entries and times "
    "are as believable as the folder; compare it with the one you were told, or pass --trusted-root"
)


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `verify`."""
    parser = commands.add_parser(
        "verify",
        help="check exported evidence offline",
        description="Check an exported folder offline: every file against its manifest, every event by its bundles; or "
        "Sigstore bundles alone: who signed, signature, log entry, inclusion, checkpoint, signed times, subject.",
        epilog=f"Without --key or --identity, --trusted-root, --subject the files of an export are taken: {KEY} and "
        f"{TRUSTED_ROOT} beside NAME{BUNDLE_SUFFIX} or one folder up, and NAME{SUBJECT_SUFFIX} beside it. --identity "
        "needs --trusted-root: a name is what an authority of that root says it is.",
    )
    parser.add_argument(
        "bundles",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=f"folder of an export, or of *{BUNDLE_SUFFIX}, or a bundle",
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
        "--timestamps", metavar="N", type=int, default=0, help="demand timestamps of so many authorities (default: 0)"
    )
    parser.add_argument(
        "--no-certificate-log", action="store_true", help="take certificates that are in no certificate log"
    )
    parser.add_argument(
        "--any", action="store_true", help="of several bundles over one subject, let one that holds be enough"
    )
    parser.add_argument("--manifest", metavar="D", default="", help="sha256:<hex> that an exported folder must have")
    parser.add_argument("--json", action="store_true", help="one JSON object a bundle or exported folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every folder and bundle; one that does not hold makes the status 1."""
    from ugallu.cli import verify_folder

    folders = [path for path in args.bundles if verify_folder.is_export(path)]
    rest = [path for path in args.bundles if path not in folders]
    status = max([verify_folder.run(path, args) for path in folders], default=DONE)
    return max(status, _run(rest, args)) if rest else status


def _run(named: "Sequence[Path]", args: argparse.Namespace) -> int:
    from ugallu.cli.markup import printable
    from ugallu.errors import PermanentError
    from ugallu.evidence import trust as trusts

    who = rooted_identity_of(args)
    paths = list(_bundles(named))
    if args.manifest:
        raise PermanentError("there is no manifest", where=str(paths[0]), fix="--manifest is for an exported folder")
    if args.subject and len(paths) > 1 and not args.any:
        raise PermanentError(
            "one subject cannot belong to several bundles",
            where="--subject",
            fix="name one bundle, or pass --any for the bundles of one statement",
        )
    keys = tuple(key_in(path) for path in args.key)
    reports: dict[Path, list[Report]] = {}
    for path in paths:
        known = keys or (() if who else _keys_of(path))
        root = root_in(args.trusted_root or _near(path, TRUSTED_ROOT))
        subject = args.subject or _beside(path)
        trust = trusts.Trust(root, (*known, *([who] if who else [])), policy_of(args))
        content = read_in(path, MAX_BUNDLE)
        report = trust.check(content, subject=read_in(subject, MAX_SUBJECT) if subject else None)
        reports.setdefault(subject or path, []).append(report)
        print(_json(path, subject, report) if args.json else "\n".join(_text(path, subject, report)))
    tell_notes(([] if keys or who else [NOTE]) + ([] if args.trusted_root else [ROOT_NOTE]), args)
    if not args.any:
        return DONE if all(report.ok for many in reports.values() for report in many) else FAILED
    failed = [about for about, many in reports.items() if not trusts.holds(many, require_all=False)]
    for about in failed:
        if any(report.ok for report in reports[about]):
            print(printable(f"{about}: its bundles verify, but for different statements"), file=sys.stderr)
    return FAILED if failed else DONE


def tell_notes(notes: "Sequence[str]", args: argparse.Namespace) -> None:
    """Tell what was taken from the folder itself; beside JSON, where it is in nobody's way."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr if args.json else sys.stdout)


def policy_of(args: argparse.Namespace) -> "Policy":
    """Return what the reader demands."""
    from ugallu.evidence.verify import POLICY, Policy

    types = POLICY.predicate_types if not args.type else frozenset() if args.type == "any" else frozenset({args.type})
    return Policy(types, certificate_log=not args.no_certificate_log, timestamps=args.timestamps)


def identity_of(args: argparse.Namespace) -> "Identity | None":
    """Return the identity that the reader expects; raises `PermanentError` for half of one."""
    from ugallu.errors import PermanentError
    from ugallu.evidence.x509 import Identity

    if bool(args.identity) is not bool(args.issuer):
        raise PermanentError(
            "a name is worth as much as who vouches for it",
            where="--identity, --issuer",
            fix="pass both",
        )
    return Identity(args.identity, args.issuer) if args.identity else None


def rooted_identity_of(args: argparse.Namespace) -> "Identity | None":
    """Return the identity that the reader expects, under a root that the reader brings; raises `PermanentError`.

    Of keyless evidence the trusted root is the whole trust: whoever forges a bundle makes an authority that certifies
    any name, and puts it beside.
    """
    from ugallu.errors import PermanentError

    who = identity_of(args)
    if who is not None and not args.trusted_root:
        raise PermanentError(
            "authorities of a trusted root certify a name, and a root that came with a bundle may be its forger's",
            where="--identity",
            fix="pass --trusted-root FILE, from elsewhere than the bundle",
        )
    return who


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


def _near(bundle: Path, name: str) -> Path:
    """Return a file of an export: beside the bundle, or where that lies in a folder of its own, one up."""
    beside, above = bundle.with_name(name), bundle.absolute().parent.parent / name
    return above if above.exists() and not beside.exists() else beside


def _keys_of(bundle: Path) -> "tuple[PublicKey, ...]":
    """Return the key of an export, or all where several have signed."""
    one = _near(bundle, KEY)
    many = [] if one.exists() else sorted((bundle.absolute().parent.parent / "keys").glob("*.pub"))
    return tuple(key_in(path) for path in many or [one])


def key_in(path: Path) -> "PublicKey":
    """Return the key in a file; raises `PermanentError`."""
    from ugallu.errors import PermanentError
    from ugallu.evidence import keys

    if not path.exists():
        raise PermanentError(
            "no such key",
            where=str(path),
            fix="pass --key FILE, or --identity, --issuer and --trusted-root for a keyless signer",
        )
    return keys.from_pem(read_in(path, MAX_KEY), where=str(path))


def root_in(path: Path) -> "TrustedRoot":
    """Return the trusted root in a file; raises `PermanentError`."""
    from ugallu.errors import PermanentError
    from ugallu.evidence import trusted_root

    if not path.exists():
        raise PermanentError("no such trusted root", where=str(path), fix="pass --trusted-root FILE")
    try:
        return trusted_root.read(read_in(path, trusted_root.MAX_BYTES + 1))
    except PermanentError as error:
        raise PermanentError(error.what, where=str(path), fix="pass the trusted-root.json of the export") from error


def read_in(path: Path, most: int) -> bytes:
    """Return a file; raises `PermanentError` for more than so many bytes, `OSError` as opening does."""
    from ugallu.errors import PermanentError

    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise PermanentError(f"larger than {most} bytes", where=str(path))
    return content


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
