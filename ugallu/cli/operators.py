"""`ugallu operators`: what is installed and can run here."""

import argparse

from ugallu.cli.main import DONE, FAILED, Subparsers


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `operators`."""
    parser = commands.add_parser(
        "operators",
        help="list what is installed",
        description="List the installed operators: what each emits, where its parts run, what brought it.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with the rights that each asks for")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List; an operator that cannot be imported makes the status 1."""
    import msgspec

    from ugallu.cli.table import rows
    from ugallu.errors import PermanentError
    from ugallu.supervisor.registry import installed

    found, broken = [], False
    for line in installed().values():
        entry: dict[str, object] = {"name": line.name, "target": line.target, "distribution": line.distribution}
        try:
            operator = line.load()
        except PermanentError as error:
            broken = True
            entry["error"] = str(error)
        else:
            entry["placement"] = operator.placement.value
            entry["emits"] = [kind.name for kind in operator.emits]
            entry["needsPods"] = operator.needs_pods
            entry["grants"] = [
                {"group": grant.group, "resources": grant.resources, "verbs": grant.verbs} for grant in operator.grants
            ]
        found.append(entry)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        head = ("NAME", "RUNS", "EMITS", "FROM", "NOTE")
        print("\n".join(rows([head, *(_cells(entry) for entry in found)])))
    return FAILED if broken else DONE


def _cells(entry: dict[str, object]) -> tuple[str, ...]:
    emits = entry.get("emits")
    count = f"{len(emits)} types" if isinstance(emits, list) else ""
    note = str(entry.get("error", "needs Pods: not in embedded mode" if entry.get("needsPods") else ""))
    return (str(entry["name"]), str(entry.get("placement", "")), count, str(entry["distribution"]), note)
