"""`python -m tests.rig up --size node`: a cluster to try things on, until Ctrl-C."""

# ruff: noqa: T201 - a command line prints

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.rig.cluster import ApiServer, ControlPlane
from tests.rig.go import MissingError
from tests.rig.ground import RigError
from tests.rig.node import Node

SIZES: dict[str, type[ApiServer]] = {size.size: size for size in (ApiServer, ControlPlane, Node)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a cluster of this size, say how to reach it, stop it at Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    up = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("up", help="start a cluster")
    up.add_argument("--size", choices=SIZES, default="api", help="how much of Kubernetes (default: %(default)s)")
    up.add_argument("--load", type=Path, action="append", default=[], metavar="TAR", help="an image for the node")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with SIZES[chosen.size]() as cluster:
            if isinstance(cluster, Node):
                for archive in chosen.load:
                    cluster.load(archive)
            print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.folder / 'bin'}:$PATH", flush=True)
            print(f"{cluster.size} of Kubernetes at {cluster.url}; Ctrl-C ends it", file=sys.stderr, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except (RigError, MissingError) as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
