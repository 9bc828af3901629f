"""`ugallu export`: one event's evidence in a folder that stock cosign verifies."""

import argparse
from pathlib import Path

from ugallu.cli.main import DONE, Subparsers
from ugallu.cli.state import add_place, looking, settings_of, state_of


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write an event's evidence into a folder that cosign verifies",
        description="Write bundle, attested bytes, public key and trusted root of one event into a folder, and print "
        "the cosign line that verifies it offline.",
    )
    parser.add_argument("event", metavar="EVENT", help="name of the event")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write, made if it is not there")
    add_place(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read back from the archive, verify, write."""
    import anyio

    anyio.run(_export, args)
    return DONE


async def _export(args: argparse.Namespace) -> None:
    import shlex
    import sys

    from ugallu.api.event import SecurityEvent
    from ugallu.cli.evidence import ASK, Archive, bundle_of
    from ugallu.evidence.kit import cosign_line, export
    from ugallu.evidence.ports import IntegrityError

    settings = settings_of(args)
    archive = Archive(state_of(settings))
    async with looking(settings) as cluster:
        event = await cluster.get(SecurityEvent, args.event)
        kit = await archive.kit(event, await bundle_of(cluster, event))
    report = archive.check(kit)
    if not report.ok:
        raise IntegrityError(report.reason, where=args.event, fix=ASK)
    for path in export(kit, args.folder):
        print(path)
    print(f"key {kit.key.key_id}, log entry {report.log_index}; verify offline with:", file=sys.stderr)
    print(f"cd {shlex.quote(str(args.folder))} && {cosign_line(kit.name, kit.predicate_type)}", file=sys.stderr)
