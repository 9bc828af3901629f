"""`ugallu manifests`: write what a cluster needs, or check that a copy of it is current."""

import argparse
from pathlib import Path

from ugallu.cli.main import DONE, FAILED, Subparsers


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `manifests`."""
    parser = commands.add_parser(
        "manifests",
        help="write what a cluster needs to run this",
        description="Write kinds, admission policies, rights and workloads of every installed operator as a Kustomize "
        "tree. Generated files that nothing generates any more are removed; other files are left alone.",
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("manifests"), metavar="DIR")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 and name each file that is not current"
    )
    parser.add_argument(
        "--docs", type=Path, metavar="DIR", help="also the pages made from the code: API, policies, monitoring, rules"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write, or compare."""
    from ugallu.manifests.pages import pages
    from ugallu.manifests.tree import compare, tree, write
    from ugallu.supervisor.registry import installed

    operators = [line.load() for line in installed().values()]
    there = {args.directory: tree(operators)}
    if args.docs is not None:
        there[args.docs] = pages(operators)
    current = True
    for directory, files in there.items():
        for path, how in list(compare(files, directory)) if args.check else write(files, directory):
            print(f"{directory / path}: {how if args.check else DID[how]}")
            current = False
    return FAILED if args.check and not current else DONE


DID = {"missing": "written", "differs": "written", "stale": "removed"}
