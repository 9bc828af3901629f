"""`ugallu run`: the supervisor, until it is told to stop."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.cli import flags
from ugallu.cli.main import DONE, Subparsers

if TYPE_CHECKING:
    from ugallu.settings import Settings


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `run`."""
    parser = commands.add_parser(
        "run",
        help="watch audit logs until stopped",
        description="Run the operators until SIGTERM, with --no-follow until the input has ended and all that came of "
        "it is done; a second SIGTERM ends at once. Every setting may also come from "
        "the environment: UGALLU_STATE, UGALLU_AUDIT_FILES, UGALLU_EMIT_OBJECTS_PER_HOUR...",
    )
    parser.add_argument(
        "--rules",
        action="append",
        default=[],
        type=Path,
        metavar="DIR_OR_FILE",
        help="rules to load, again for more (default: those that the state holds, else pack, the default rules)",
    )
    flags.add(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    import anyio

    from ugallu.settings import load

    settings = load(flags.overrides(args))
    settings.state_dir  # noqa: B018 - raises what to do when there is none, before anything is opened
    anyio.run(_run, settings, args.rules)
    return DONE


async def _run(settings: "Settings", rules: list[Path]) -> None:
    from ugallu.api.sigma import SigmaRule
    from ugallu.cli.books import as_json
    from ugallu.cli.playback import default_rules, load_rules
    from ugallu.operator.rights import allows, rights
    from ugallu.supervisor.assembly import open_process
    from ugallu.supervisor.signals import stopping

    async with open_process(settings) as process:
        if not rules and not settings.on_kubernetes:
            rules = await default_rules(process.cluster)
        await load_rules(process.cluster, process.operators, rules)
        audit = settings.audit
        if any(allows(rights(operator), "list", SigmaRule.kind_info) for operator in process.operators):
            if not audit.files and not audit.webhook.listen and not audit.bus.addresses and not settings.bus.url:
                process.log.warning("no audit log: pass --audit-log FILE, --webhook HOST:PORT or --audit-bus HOST:PORT")
            if not (await process.cluster.list(SigmaRule, limit=1)).items:
                process.log.warning("no rules: pass --rules DIR, or apply SigmaRules")
        with stopping() as stop:
            books = await process.supervisor.run(stop, until_idle=not audit.follow)
    process.log.info("stopped", **as_json(books), cut=list(books.cut))
