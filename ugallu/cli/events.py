"""`ugallu events`: what `kubectl get securityevents` shows, in the embedded cluster too."""

import argparse
import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from ugallu.cli.main import DONE, Subparsers
from ugallu.cli.state import add_place, looking, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ugallu.api.event import SecurityEvent
    from ugallu.cluster.port import Cluster
    from ugallu.logs import Logger

COLUMNS: Final = ("NAME", "CLASS", "TYPE", "SEVERITY", "PHASE", "SUBJECT", "AGE")
"""Those of the CRD, behind the name."""
WIDE: Final = ("KIND", "NAMESPACE", "DETECTED", "RULE", "ACTOR")


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `events`."""
    parser = commands.add_parser("events", help="list security events", description="List security events.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="this one only; not to be there is status 1")
    parser.add_argument("-w", "--watch", action="store_true", help="go on with what changes, until interrupted")
    parser.add_argument("-o", "--output", choices=("wide", "json", "yaml"), help="more columns, or the objects")
    parser.add_argument(
        "-l", "--selector", default="", metavar="LABELS", help="as kubectl's, e.g. ugallu.io/severity=high"
    )
    add_place(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, and with --watch go on."""
    import anyio

    anyio.run(_list, args)
    return DONE


async def _list(args: argparse.Namespace) -> None:
    from ugallu.api.event import SecurityEvent
    from ugallu.cluster.port import list_all
    from ugallu.logs import logger

    fields = f"metadata.name={args.name}" if args.name else ""
    settings = settings_of(args)
    async with looking(settings) as cluster:
        if args.name and not args.watch:
            _print([await cluster.get(SecurityEvent, args.name)], args.output, single=True)
            return
        events, _ = await list_all(cluster, SecurityEvent, labels=args.selector, fields=fields)
        events.sort(key=lambda event: (event.spec.detected_at, event.metadata.name))
        if not args.watch:
            _print(events, args.output)
            return
        show = _watcher(args.output, events)
        await follow(cluster, events, show, logger(settings.log), labels=args.selector, fields=fields)


async def follow(
    cluster: "Cluster",
    known: "Sequence[SecurityEvent]",
    show: "Callable[[SecurityEvent], None]",
    log: "Logger",
    *,
    labels: str = "",
    fields: str = "",
) -> None:
    """Show each event that comes or changes and was not known, whatever becomes of watches; never returns."""
    from ugallu.api.event import SecurityEvent
    from ugallu.cluster.cache import SharedCache
    from ugallu.cluster.port import Change

    versions = {event.metadata.name: event.metadata.resource_version for event in known}

    def told(change: Change, event: SecurityEvent) -> None:
        name, version = event.metadata.name, event.metadata.resource_version
        if change is Change.DELETED:
            versions.pop(name, None)
        elif versions.get(name) != version:
            versions[name] = version
            show(event)

    cache = SharedCache(cluster, log=log)
    cache.view(SecurityEvent, labels=labels, fields=fields).listen(told)
    await cache.run()


def _print(events: "Sequence[SecurityEvent]", output: str | None, *, single: bool = False) -> None:
    from ugallu.cli.table import rows

    if output in ("json", "yaml"):
        print(_document([_builtins(event) for event in events], output, single=single), end="")
    elif events:
        print("\n".join(rows([_head(output), *(cells(event, output, _now()) for event in events)])))
    else:
        import sys

        print("No resources found", file=sys.stderr)  # kubectl's words, and its stream


def _watcher(output: str | None, first: "Sequence[SecurityEvent]") -> "Callable[[SecurityEvent], None]":
    """Print what there is, and return what prints each change below it, in the same columns."""
    from ugallu.cli.table import rows

    if output in ("json", "yaml"):
        import msgspec

        def document(event: "SecurityEvent") -> None:
            line = msgspec.json.encode(_builtins(event)).decode() + "\n"
            print(line if output == "json" else "---\n" + _document([_builtins(event)], "yaml", single=True), end="")
            _flush()

        for event in first:
            document(event)
        return document

    block = [_head(output), *(cells(event, output, _now()) for event in first)]
    widths = [max(len(line[index]) for line in block) for index in range(len(block[0]))]
    print("\n".join(rows(block)))

    def line(event: "SecurityEvent") -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells(event, output, _now()), widths, strict=True)]
        print(rows([padded])[0])
        _flush()

    _flush()
    return line


def _head(output: str | None) -> tuple[str, ...]:
    return (*COLUMNS, *WIDE) if output == "wide" else COLUMNS


def cells(event: "SecurityEvent", output: str | None, now: dt.datetime) -> tuple[str, ...]:
    """Return one line of the table."""
    from ugallu.cli.table import age

    spec, subject = event.spec, event.spec.subject
    phase = event.status.phase.value if event.status.phase else ""
    line = (
        event.metadata.name,
        spec.class_.value,
        spec.type,
        spec.severity.value,
        phase,
        subject.name,
        age(event.metadata.creation_timestamp, now),
    )
    if output != "wide":
        return line
    detected = f"{spec.detected_at:%Y-%m-%dT%H:%M:%SZ}"
    return (
        *line,
        subject.kind,
        subject.namespace,
        detected,
        spec.signals.get("rule", ""),
        spec.signals.get("user", ""),
    )


def _document(objects: list[Any], output: str, *, single: bool) -> str:
    whole = objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": objects}
    if output == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(whole), indent=4).decode() + "\n"
    import yaml

    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return text


def _builtins(event: "SecurityEvent") -> Any:  # noqa: ANN401 - plain JSON
    import msgspec

    from ugallu.api.meta import encode

    return msgspec.json.decode(encode(event))


def _now() -> dt.datetime:
    from ugallu.clock import SystemClock

    return SystemClock().now()


def _flush() -> None:
    import sys

    sys.stdout.flush()
