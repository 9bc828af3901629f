"""`ugallu version`."""

import argparse

from ugallu.cli.main import DONE, Subparsers


def register(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `version`."""
    parser = commands.add_parser("version", help="print the version", description="Print the version.")
    parser.add_argument("--json", action="store_true", help="as one JSON object, with the interpreter's version")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    import json
    import platform

    from ugallu import __version__

    if args.json:
        print(json.dumps({"version": __version__, "python": platform.python_version()}))
    else:
        print(f"ugallu {__version__}")
    return DONE
