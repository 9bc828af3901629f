"""`ugallu doctor`: is everything in order, and if not, which line mends it. It looks; it changes nothing."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ugallu.cli import flags
from ugallu.cli.main import DONE, FAILED, Subparsers
from ugallu.cli.state import PLACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugallu.cli.diagnosis import Finding
    from ugallu.clock import Clock
    from ugallu.settings import Settings


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="check that everything ugallu needs is in order",
        description="Check state directory, journal, cluster, keys, log, archive, operators, audit logs and clock; "
        "with --kubeconfig, or in a Pod, also server, kinds, policies, Pods, rights, leases and audit stream of the "
        "Kubernetes cluster. Exit status: 0 nothing failed (warnings included), 1 something did.",
    )
    flags.add(parser, (*PLACE, "audit.files", "enable", "secrets"))
    parser.add_argument("--json", action="store_true", help="one JSON object with all checks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine, print, and let a failure decide the status."""
    import anyio

    from ugallu.cli import diagnosis, ledger_diagnosis
    from ugallu.clock import SystemClock
    from ugallu.settings import load

    settings = load(flags.overrides(args))
    clock = SystemClock()
    found = list(diagnosis.installation(settings.enable))
    if settings.state:
        path = Path(settings.state)
        found += diagnosis.state(path, settings, clock)
        if path.is_dir():
            found += anyio.run(partial(diagnosis.contents, path, settings, clock, embedded=not settings.on_kubernetes))
            found += ledger_diagnosis.last_day(path, clock.now())
    if settings.on_kubernetes:
        found += anyio.run(_cluster, settings, clock)
    found += diagnosis.audit_logs([Path(name) for name in settings.audit.files if name != "-"], clock)
    print(_json(found) if args.json else "\n".join(_text(found)))
    if not settings.state and not settings.on_kubernetes and not args.json:
        print("neither --state nor --kubeconfig given: only the installation was checked")
    return FAILED if any(one.verdict == "fail" for one in found) else DONE


async def _cluster(settings: "Settings", clock: "Clock") -> "Sequence[Finding]":
    from ugallu.cli import cluster_diagnosis, diagnosis
    from ugallu.errors import UgalluError
    from ugallu.logs import logger
    from ugallu.metrics import Metrics
    from ugallu.supervisor.assembly import load
    from ugallu.supervisor.reach import connect

    try:
        cluster = await connect(settings, clock=clock, metrics=Metrics(), log=logger(settings.log))
    except UgalluError as error:
        return [diagnosis.Finding("server", "fail", diagnosis.said(error), error.fix)]
    try:
        found = list(await cluster_diagnosis.examine(cluster, load(settings, embedded=False), clock))
        if settings.state:
            found.append(await diagnosis.archived(Path(settings.state), cluster, settings))
        return found
    finally:
        await cluster.close()


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
