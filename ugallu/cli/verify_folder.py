"""`ugallu verify FOLDER`: an exported folder as a whole; what is missing, changed or not proven is told by name."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli.main import DONE, FAILED

if TYPE_CHECKING:
    from ugallu.errors import PermanentError
    from ugallu.evidence.folder import Finding, Manifest
    from ugallu.evidence.incident import Judgement
    from ugallu.evidence.trust import Trust

NOTE: Final = (
    "keys, names and trusted root are those of the folder: this proves that it is whole, not who made it; compare them "
    "with what you were told, or pass --key or --identity, and --trusted-root"
)


def is_export(path: Path) -> bool:
    """Tell whether this is an exported folder, or what is left of one."""
    from ugallu.evidence.folder import MANIFEST, SUMS

    return path.is_dir() and any((path / name).exists() for name in (MANIFEST, SUMS))


def run(path: Path, args: argparse.Namespace) -> int:
    """Check a folder, tell, and return the exit status."""
    judgement = _judged(path, args)
    from ugallu.cli.verify import ROOT_NOTE, tell_notes

    notes = [NOTE] if not args.key and not args.identity else [] if args.trusted_root else [ROOT_NOTE]
    if args.json:
        print(_json(path, judgement))
        tell_notes(notes, args)
        return DONE if judgement.ok else FAILED
    from ugallu.cli.markup import printable
    from ugallu.evidence.custody import signer
    from ugallu.evidence.folder import shown

    lines = shown(judgement.findings)
    facts, proofs = judgement.manifest.facts, judgement.proofs
    for proof in proofs:
        who = ", ".join(dict.fromkeys(signer(report) for report in proof.reports))
        entries = ", ".join(str(report.log_index) for report in proof.reports)
        lines.append(f"{'ok':<10} {proof.fact.kind}/{proof.fact.name}: {who}, log entry {entries}")
    word = "verified" if judgement.ok else "DOES NOT HOLD"
    lines.append(
        f"{path}: {word}: {len(proofs):,} of {len(facts):,} facts proven, {judgement.blobs:,} blobs, "
        f"{len(judgement.manifest.files):,} files; manifest {judgement.digest}"
    )
    # A name with a line's end in it would write lines of its own.
    print("\n".join(printable(line).replace("\n", "\\u000a") for line in lines))
    tell_notes(notes, args)
    return DONE if judgement.ok else FAILED


def _judged(path: Path, args: argparse.Namespace) -> "Judgement":
    from ugallu.errors import PermanentError
    from ugallu.evidence.canonical import digest
    from ugallu.evidence.folder import MANIFEST, MAX_MANIFEST, Finding, Said, read, read_file
    from ugallu.evidence.incident import judge
    from ugallu.evidence.ports import IntegrityError

    if args.subject is not None:
        raise PermanentError("a folder has its subjects in it", where="--subject", fix="name one of its bundles")
    if not (path / MANIFEST).exists():
        raise IntegrityError("missing: without it nobody knows what was exported", where=str(path / MANIFEST))
    try:
        content = read_file(path, MANIFEST, MAX_MANIFEST)
        manifest = read(content)
    except PermanentError as error:
        raise IntegrityError(f"changed, or no manifest: {error.what}", where=str(path / MANIFEST)) from error
    found = judge(path, manifest, content, _trust(path, manifest, args))
    if args.manifest and args.manifest != digest(content):
        import msgspec

        other = Finding(Said.CHANGED, MANIFEST, f"it is {found.digest}, and should be {args.manifest}")
        return msgspec.structs.replace(found, findings=(other, *found.findings))
    return found


def _trust(path: Path, manifest: "Manifest", args: argparse.Namespace) -> "Trust | PermanentError":
    """Return what the reader says is to be trusted, and what the folder says where the reader says nothing."""
    from ugallu.cli.verify import key_in, policy_of, root_in, rooted_identity_of
    from ugallu.errors import PermanentError
    from ugallu.evidence.incident import trust_of
    from ugallu.evidence.trust import Trust

    who = rooted_identity_of(args)
    given = (*(key_in(key) for key in args.key), *([who] if who else ()))
    root = root_in(args.trusted_root) if args.trusted_root else None
    if given and root is not None:
        return Trust(root, given, policy_of(args))
    try:
        own = trust_of(path, manifest, policy_of(args))
    except PermanentError as error:
        return error
    return Trust(root or own.root, given or own.signers, own.policy)


def _json(path: Path, judgement: "Judgement") -> str:
    import msgspec

    from ugallu.evidence.custody import signer

    def told(finding: "Finding") -> dict[str, str]:
        return {"said": finding.said.value, "what": finding.what, "why": finding.why}

    proven = {proof.fact.uid: proof for proof in judgement.proofs}
    facts = [
        {
            "kind": fact.kind,
            "name": fact.name,
            "uid": fact.uid,
            "ok": fact.uid in proven,
            "signers": [signer(report) for report in proven[fact.uid].reports] if fact.uid in proven else [],
            "logIndexes": [report.log_index for report in proven[fact.uid].reports] if fact.uid in proven else [],
        }
        for fact in judgement.manifest.facts
    ]
    return msgspec.json.encode(
        {
            "folder": str(path),
            "ok": judgement.ok,
            "manifest": judgement.digest,
            "facts": facts,
            "blobs": judgement.blobs,
            "files": len(judgement.manifest.files),
            "findings": [told(finding) for finding in judgement.findings],
        }
    ).decode()
