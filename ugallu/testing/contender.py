"""A process that contends for a Lease and writes down when it led: `python -m ugallu.testing.contender ...`.

Each line of the log is a moment at which this process would have acted: the turn it was in, and CLOCK_MONOTONIC, which
all processes of a machine share. SIGTERM ends it in order.
"""

import argparse
import itertools
import signal
import time
from pathlib import Path

import anyio

from ugallu.clock import SystemClock
from ugallu.cluster.kubernetes.auth import from_kubeconfig
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.lease import Election, Terms

PAUSE = 0.01


async def contend(kubeconfig: Path, namespace: str, identity: str, log: Path, terms: Terms) -> None:
    """Lead whenever the Lease allows it, until SIGTERM."""
    cluster = await KubernetesCluster.open(from_kubeconfig(kubeconfig))
    election = Election(cluster, SystemClock(), name="contended", namespace=namespace, identity=identity, terms=terms)
    turns = itertools.count()
    with log.open("a", buffering=1) as out:

        async def act() -> None:
            turn = next(turns)
            while True:
                # Before the question: being stopped between the two makes the moment earlier, not wrong.
                moment = time.monotonic()
                if election.leads():
                    out.write(f"{turn} {moment}\n")
                await anyio.sleep(PAUSE)

        async def lead() -> None:
            while True:
                await election.lead(act)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    break
    await cluster.close()


def main() -> None:
    """Contend as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("namespace")
    parser.add_argument("identity")
    parser.add_argument("log", type=Path)
    asked = parser.parse_args()
    # As short as seconds allow: what is tested is the order of things, not how long they take.
    terms = Terms(duration=4, renew=2.5, every=1.0, retry=0.5, release=2.0)
    anyio.run(contend, asked.kubeconfig, asked.namespace, asked.identity, asked.log, terms)


if __name__ == "__main__":
    main()
