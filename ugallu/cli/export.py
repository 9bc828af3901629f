"""`ugallu export`: events, what was done about them and what proves it, in a folder that anybody can check."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ugallu.cli import flags
from ugallu.cli.main import DONE, FAILED, Subparsers
from ugallu.cli.state import PLACE, looking, settings_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ugallu.evidence.export import Found
    from ugallu.evidence.folder import Asked
    from ugallu.evidence.ports import PublicKey
    from ugallu.evidence.x509 import Identity

MOST: Final = 1 << 30
"""Bytes of a blob above which it is left out unless asked for."""
AT_ONCE: Final = 16
"""Facts that are read at once."""


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write evidence into a folder that cosign verifies",
        description="Write events, the responses to them, the snapshots and lists that these name, and what proves "
        "it all, into a folder. `ugallu verify DIR` checks it offline, cosign each bundle: its README.md says how.",
        usage="%(prog)s [EVENT ...] DIR [options]",
    )
    parser.add_argument("names", nargs="+", metavar="EVENT", help="names of events; DIR, new or empty, comes last")
    which = parser.add_argument_group("which events (all of these that are given must hold)")
    which.add_argument("-l", "--selector", default="", metavar="LABELS", help="as kubectl's")
    which.add_argument("--correlation", default="", metavar="ID", help="events with this correlation id")
    which.add_argument("--subject", default="", metavar="S", help="about KIND/NAME, KIND/NAMESPACE/NAME, or a uid")
    which.add_argument("--since", default="", metavar="T", help="detected at or after, e.g. 2026-11-25T01:03:00Z")
    which.add_argument("--until", default="", metavar="T", help="detected at or before")
    which.add_argument(
        "--related",
        action="store_true",
        help="and whatever shares a correlation id or a capture with them, or is a cause or effect",
    )
    which.add_argument("--archived", action="store_true", help="also what the cluster has no more and the archive has")
    parser.add_argument("--by", default="", metavar="WHO", help="who takes it, for the chain of custody")
    parser.add_argument(
        "--blob-bytes",
        type=int,
        default=MOST,
        metavar="N",
        help="leave out what is larger (default: 1 GiB); 0: all blobs",
    )
    parser.add_argument(
        "--endpoint",
        default="",
        metavar="URL",
        help="where the service of WORMConfig's bucket is reached from here",
    )
    parser.add_argument("--trusted-root", type=Path, metavar="F", help="logs and authorities to believe")
    parser.add_argument(
        "--key", type=Path, metavar="F", action="append", default=[], help="a public key to believe, PEM"
    )
    parser.add_argument("--identity", metavar="I", default="", help="the name in a keyless signer's certificate")
    parser.add_argument("--issuer", metavar="U", default="", help="who vouches for that name: the issuer's URL")
    flags.add(parser, (*PLACE, "kubernetes.namespace", "secrets"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read back from the archive, verify, write."""
    import anyio

    return anyio.run(_export, args)


async def _export(args: argparse.Namespace) -> int:
    import shlex
    import sys

    from ugallu import __version__
    from ugallu.cli.export_archived import Copies, others
    from ugallu.cli.export_from import holdings
    from ugallu.cli.export_what import choose, found_event, links_of, narrows, responses_to, when_of
    from ugallu.clock import SystemClock
    from ugallu.evidence.custody import moment
    from ugallu.evidence.export import About, Exporter
    from ugallu.evidence.folder import Writer

    asked, folder = _asked(args)
    settings = settings_of(args)
    signers = _signers(args)
    async with (
        looking(settings) as cluster,
        holdings(cluster, settings, root=args.trusted_root, signers=signers, endpoint=args.endpoint) as held,
    ):
        links, copies = await links_of(cluster, asked), Copies(held.archive, cluster)
        live = {link.metadata.uid for link in links}
        if asked.archived:
            await copies.load(when_of(asked))
            every = narrows(asked) or asked.related
            gone = await copies.links(() if every else asked.names)
            links += [link for link in gone if link.metadata.uid not in live]
        events = [
            await found_event(cluster, link.metadata.name, held.archive)
            if link.metadata.uid in live
            else await copies.event(link.metadata.uid)
            for link in choose(links, asked)
        ]
        if not events:
            return _nothing()
        responses = await responses_to(cluster, events)
        responses += others(await copies.responses_to(events), responses)
        single = len(asked.names) == len(events) == 1
        with Writer(folder) as out:
            exporter = Exporter(out, held.read, held.trust, held.root, most=args.blob_bytes or sys.maxsize)
            await _each(events, lambda found: exporter.add(found, strict=single))
            await _each(responses, exporter.add)
            digest = exporter.finish(
                About(
                    made_by=f"ugallu {__version__}",
                    made_at=moment(SystemClock().now().replace(microsecond=0)),
                    exported_by=args.by,
                    asked=asked,
                )
            )
            for file in out.files:
                print(folder / file.path)
    for gap in exporter.gaps:
        print(f"not proven: {gap}", file=sys.stderr)
    print(f"manifest {digest}; verify offline with `ugallu verify {shlex.quote(str(folder))}`, or:", file=sys.stderr)
    if exporter.example:
        print(f"cd {shlex.quote(str(folder))} && {exporter.example}", file=sys.stderr)
    return FAILED if exporter.gaps else DONE


async def _each(items: "Sequence[Found]", work: "Callable[[Found], Awaitable[None]]") -> None:
    """Do the work for each, some at a time."""
    import anyio

    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(min(AT_ONCE, len(items))):
            tasks.start_soon(worker)


def _asked(args: argparse.Namespace) -> "tuple[Asked, Path]":
    from ugallu.cli.export_what import when_of
    from ugallu.errors import PermanentError
    from ugallu.evidence.folder import Asked

    *names, folder = args.names
    asked = Asked(
        names=tuple(names),
        labels=args.selector,
        correlation_id=args.correlation,
        subject=args.subject,
        since=args.since,
        until=args.until,
        related=args.related,
        archived=args.archived,
    )
    if not any((names, asked.labels, asked.correlation_id, asked.subject, asked.since, asked.until)):
        raise PermanentError(
            "nothing says which events",
            where="export",
            fix="name them before the folder, or pass --correlation, --subject, --selector, --since, --until",
        )
    when_of(asked)
    return asked, Path(folder)


def _signers(args: argparse.Namespace) -> "tuple[PublicKey | Identity, ...]":
    from ugallu.cli.verify import identity_of, key_in

    who = identity_of(args)
    return (*(key_in(path) for path in args.key), *([who] if who else ()))


def _nothing() -> int:
    import sys

    print("No resources found", file=sys.stderr)  # kubectl's words, and its stream
    return FAILED
