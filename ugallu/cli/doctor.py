"""`ugallu doctor`: is everything in order, and if not, which line mends it. It looks; it changes nothing."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.cli import flags
from ugallu.cli.main import DONE, FAILED, Subparsers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugallu.cli.diagnosis import Finding


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="check that everything ugallu needs is in order",
        description="Check state directory, journal, cluster, keys, log, archive, operators, audit logs and clock. "
        "Exit status: 0 nothing failed (warnings included), 1 something did.",
    )
    flags.add(parser, ("state", "audit.files", "enable"))
    parser.add_argument("--json", action="store_true", help="one JSON object with all checks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine, print, and let a failure decide the status."""
    import anyio

    from ugallu.cli import diagnosis
    from ugallu.clock import SystemClock
    from ugallu.settings import load

    settings = load(flags.overrides(args))
    clock = SystemClock()
    found = list(diagnosis.installation(settings.enable))
    if settings.state:
        path = Path(settings.state)
        found += diagnosis.state(path, settings, clock)
        if path.is_dir():
            found += anyio.run(diagnosis.contents, path, clock)
    found += diagnosis.audit_logs([Path(name) for name in settings.audit.files if name != "-"], clock)
    print(_json(found) if args.json else "\n".join(_text(found)))
    if not settings.state and not args.json:
        print("no --state given: only the installation was checked")
    return FAILED if any(one.verdict == "fail" for one in found) else DONE


def _text(found: "Sequence[Finding]") -> list[str]:
    from ugallu.cli.markup import printable

    lines = []
    for one in found:
        lines.append(f"{one.verdict:<5} {printable(one.check)}: {printable(one.detail)}")
        if one.fix:
            lines.append(f"      -> {printable(one.fix)}")
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in ("ok", "warn", "fail")}
    return [*lines, ", ".join(f"{count} {verdict}" for verdict, count in counts.items())]


def _json(found: "Sequence[Finding]") -> str:
    import msgspec

    return msgspec.json.encode({"ok": all(one.verdict != "fail" for one in found), "checks": found}).decode()
