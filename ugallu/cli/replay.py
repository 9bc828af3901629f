"""`ugallu replay`: the same operators over recorded audit logs, to the end."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli import flags
from ugallu.cli.main import DONE, FAILED, Subparsers

if TYPE_CHECKING:
    from ugallu.emit.records import Submitted
    from ugallu.settings import Settings

SETTINGS: Final = (
    "state", "enable", "cluster_id", "cluster_name", "seal", "audit.max_line_bytes", "emit.fold_window_seconds",
    "emit.objects_per_hour", "emit.journal_bytes", "log.level", "log.format",
)  # fmt: skip


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    parser = commands.add_parser(
        "replay",
        help="run the rules over recorded audit logs, to the end",
        description="Run the rules over recorded audit logs, to the end. Same input, same rules: the same event names "
        "and digests on any machine.",
        epilog="Without --state everything happens in a temporary directory. With it the next replay goes on where "
        "this one ended, and events, evidence and the signing key stay.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audit log: plain, .gz or .zst; - is stdin")
    parser.add_argument(
        "--rules",
        action="append",
        default=[],
        type=Path,
        metavar="DIR_OR_FILE",
        help="rules to use, again for more (default: pack, which names the default rules)",
    )
    parser.add_argument("--json", action="store_true", help="one line a finding on stdout, the books as JSON on stderr")
    flags.add(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play, print findings as they come, and close the books; books that do not close make the status 1."""
    import sys
    import tempfile

    import anyio

    from ugallu.settings import load

    given = flags.overrides(args)
    given.setdefault("log", {}).setdefault("level", "error")
    settings = load(given)
    rules = args.rules
    if not rules:
        from ugallu.cli.playback import PACK

        rules = [PACK]
        if not args.json:
            print("no --rules given: using the default rules, `--rules pack`", file=sys.stderr)
    if settings.state:
        return anyio.run(_play, args, settings, rules, Path(settings.state))
    with tempfile.TemporaryDirectory(prefix="ugallu-") as state:
        return anyio.run(_play, args, settings, rules, Path(state))


async def _play(args: argparse.Namespace, settings: "Settings", rules: list[Path], state: Path) -> int:
    import sys

    import msgspec

    from ugallu.cli import books, playback
    from ugallu.cli.progress import Meter
    from ugallu.errors import PermanentError

    show = _json if args.json else _text
    out = sys.stdout

    def told(finding: "Submitted") -> None:
        if not out.isatty():
            out.write(show(finding) + "\n")
            return
        meter.clear()
        print(show(finding))

    meter = Meter()
    played = await playback.play(playback.recorded(settings, args.files, state), rules, meter=meter, told=told)
    out.flush()
    if args.json:
        print(msgspec.json.encode(books.as_json(played)).decode(), file=sys.stderr)
    else:
        print("\n".join(books.text(played, sealing=books.seals(settings))), file=sys.stderr)
    if played.received and not played.parsed:
        raise PermanentError(
            f"none of {played.received:,} lines is an audit event",
            where=", ".join(args.files),
            fix="name the log that --audit-log-path of the API server writes, in its JSON format",
        )
    return DONE if all(check.ok for check in books.equations(played, sealing=books.seals(settings))) else FAILED


def _json(finding: "Submitted") -> str:
    """Return the line that scripts depend on."""
    import msgspec

    spec = finding.spec
    return msgspec.json.encode(
        {
            "auditID": spec.signals.get("audit.id", ""),
            "stage": spec.signals.get("audit.stage", ""),
            "rule": spec.signals.get("rule", ""),
            "type": spec.type,
            "class": spec.class_,
            "severity": spec.severity,
            "subject": spec.subject,
            "detectedAt": spec.detected_at,
        }
    ).decode()


def _text(finding: "Submitted") -> str:
    from ugallu.cli.markup import printable

    spec, subject = finding.spec, finding.spec.subject
    place = f"{subject.namespace}/{subject.name}" if subject.namespace else subject.name
    who = spec.signals.get("user", "")
    what = f"{spec.detected_at:%Y-%m-%dT%H:%M:%SZ}  {spec.severity.value:<8}  {spec.type:<28}"
    return printable(f"{what}  {who} -> {subject.kind} {place}").replace("\n", "\\n")
