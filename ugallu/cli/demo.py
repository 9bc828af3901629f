"""`ugallu demo`: a recorded attack through the whole product, with a summary for people and a report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli import flags
from ugallu.cli.main import DONE, FAILED, Subparsers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugallu.cli.report import Entry, Story
    from ugallu.settings import Settings
    from ugallu.supervisor.assembly import Process
    from ugallu.supervisor.supervisor import Outcome

REPORT: Final = "ugallu-report.html"
EVIDENCE: Final = "ugallu-evidence"
REPEATS: Final = "dropped: dedupe"
TITLE: Final = "An attack in fourteen steps, found in real cluster traffic"


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        help="play a recorded attack through the whole product and write a report",
        description="Play the recorded incident of the examples through the whole product: rules, events, signatures, "
        "log, archive, verification. Writes an HTML report, and the evidence of the gravest event beside it.",
    )
    parser.add_argument("--report", type=Path, default=Path(REPORT), metavar="PATH", help=f"default: {REPORT}")
    flags.add(parser, ("state", "log.level"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play, tell, report; anything that does not close or verify makes the status 1."""
    import errno
    import os
    import tempfile

    import anyio

    from ugallu.settings import load

    given = flags.overrides(args)
    given.setdefault("log", {}).setdefault("level", "error")
    settings = load(given)
    if args.report.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(args.report))
    if settings.state:
        return anyio.run(_demo, args, settings, Path(settings.state))
    with tempfile.TemporaryDirectory(prefix="ugallu-demo-") as state:
        return anyio.run(_demo, args, settings, Path(state))


async def _demo(args: argparse.Namespace, settings: "Settings", state: Path) -> int:
    from ugallu.cli import gather, playback
    from ugallu.cli.evidence import Archive
    from ugallu.cli.examples import LOG, RULES, examples
    from ugallu.cli.progress import Meter
    from ugallu.cli.report import render
    from ugallu.evidence.kit import cosign_line, export

    folder = examples()
    told: list[Story] = []
    evidence: Path = args.report.parent / EVIDENCE
    print(f"playing {folder / LOG}\nwith the rules in {folder / RULES}", flush=True)

    async def then(process: "Process", played: "Outcome") -> None:
        from dataclasses import replace

        story = await gather.story(
            process.cluster, state, process.clock, played, title=TITLE, inputs=[LOG], sealing=True
        )
        if story.gravest is not None and story.gravest.bundle is not None:
            kit = await Archive(state).kit(story.gravest.event, story.gravest.bundle)
            export(kit, evidence)
            commands = [f"cd {EVIDENCE}", cosign_line(kit.name, kit.predicate_type)]
            story = replace(story, commands=commands)
        told.append(story)

    recorded = playback.recorded(settings, [str(folder / LOG)], state)
    await playback.play(recorded, [folder / RULES], meter=Meter(), then=then)
    story = told[0]
    args.report.write_text(render(story), "utf-8")
    print("\n".join(_summary(story)))
    print(f"\nreport    {args.report}\nevidence  {evidence}/")
    if story.commands:
        print("\nCheck the gravest event yourself, without ugallu and without a network:\n")
        print("  " + " && ".join(story.commands))
    return DONE if story.holds else FAILED


def _summary(story: "Story") -> "Sequence[str]":
    import shutil
    import sys

    from ugallu.cli.table import rows

    head = ("TIME", "SEVERITY", "EVENT", "TECHNIQUE", "WHO", "WHAT", "PROOF")
    lines = [head, *map(_cells, story.groups)]
    # A terminal would wrap the table into a heap; a file or a pipe gets all of it.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    counts = story.ledger
    sealed = sum(entry.sealed for entry in story.entries)
    verified = sum(entry.verified for entry in story.entries)
    dropped = [
        f"{count:,} {'suppressed as repeats' if name == REPEATS else name}"
        for name, count in counts.items()
        if name.startswith("dropped")
    ]
    matched = ", ".join([f"{counts['emitted']:,} events", f"{counts['folded']:,} folded", *dropped])
    closing = f", and {counts['summaries']:,} that close a fold" if counts["summaries"] else ""
    total = len(story.entries)
    return [
        "",
        *(line[:width] for line in rows(lines)),
        "",
        f"read      {counts['received']:,} audit events, {counts['parsed']:,} parsed, {counts['rejected']:,} rejected",
        f"matched   {counts['matched']:,}: {matched}",
        f"events    {counts['emitted']:,} found{closing}",
        f"sealed    {sealed:,} of {total:,}: signed, logged, archived, read back",
        f"verified  {verified:,} of {total:,}, from the archived bytes",
        f"books     {'close' if all(check.ok for check in story.equations) else 'DO NOT CLOSE'}",
    ]


def _cells(alike: "Sequence[Entry]") -> tuple[str, ...]:
    entry, more = alike[0], len(alike) - 1
    seen = entry.event.spec.signals.get("occurrences", "")
    subject = f"{entry.subject} ({seen} times in all)" if seen else entry.subject
    verified, sealed = all(one.verified for one in alike), all(one.sealed for one in alike)
    return (
        f"{entry.at:%H:%M:%S}",
        entry.severity.value,
        entry.event.spec.type,
        ",".join(technique.id for technique in entry.techniques),
        entry.actor,
        f"{subject} and {more} more" if more else subject,
        "verified" if verified else "sealed" if sealed else "none",
    )
