"""The audit webhook under load: `python -m benchmarks.webhook [--seconds N] [--rate N] [--batch N] [--rules DIR]`.

One process sends the recorded incident, every event with an id and time of its own, as an API server does: EventLists
over TLS with a token, on connections that stay open, each batch when its time has come whether or not earlier ones
were answered. The other is `ugallu run` with a rule that finds nothing, or with those that are named: what they cost,
and what their findings cost the disk, comes on top (`--rules pack`: the default ones). An answer's time counts from
when its batch was due. The bars, at 4,000 events a second: 99 % of the answers within 50 ms with fsync, a quarter of a
core, memory that stays where it is. Memory takes two minutes to be there: until then it fills with what tells repeats.
After some three minutes more the recording's times have overtaken the clock, which is reported, and the first event
that is made loads what events need, some 16 MiB.
"""

import argparse
import http.client
import itertools
import os
import queue
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lines import rounds
from benchmarks.rest import cpu, resident
from tests.rig.ground import free_port, wait
from tests.rig.keys import Authority

CONNECTIONS = 8
TOKEN = "let-me-in"
WARM_SECONDS = 5.0
NOTHING = """
apiVersion: security.ugallu.io/v1alpha1
kind: SigmaRule
metadata: {name: nothing}
spec:
  match: {objectRef: {resource: [nothing]}}
  emit: {securityEventType: KubernetesAPICall, class: Detection, severity: low}
"""
HEAD, TAIL = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[', b"]}"


class Subject:
    """`ugallu run` behind a webhook, in a state of its own."""

    def __init__(self, folder: Path, rules: str, profile: str) -> None:
        self.ca = Authority(folder, "ca")
        pair = self.ca.issue("server", "server", hosts=("127.0.0.1",))
        (folder / "token").write_text(TOKEN)
        (folder / "nothing.yaml").write_text(NOTHING)
        self.port, self.health, self.metrics = free_port(), free_port(), free_port()
        run = ["-m", "cProfile", "-o", profile, "-m", "ugallu"] if profile else ["-m", "ugallu"]
        command = [
            sys.executable, *run, "run", "--state", str(folder / "state"),
            "--rules", rules or str(folder / "nothing.yaml"),
            "--enable", "audit-detection", "--no-seal", "--log-level", "error",
            "--webhook", f"127.0.0.1:{self.port}", "--webhook-token-file", str(folder / "token"),
            "--webhook-tls-cert", str(pair.certificate), "--webhook-tls-key", str(pair.key),
            "--health", f"127.0.0.1:{self.health}", "--metrics", f"127.0.0.1:{self.metrics}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        try:
            wait("ready", self._ready, 60)
        except BaseException:
            self.process.kill()
            raise

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit("the receiver does not start")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=5).close()
        except OSError:
            return False
        return True

    def metric(self, name: str) -> float:
        """Return a metric, summed over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            found = [line for line in answer.read().decode().splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def stop(self) -> int:
        """End it as an operator would and return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Load:
    """Batches at a steady pace; `waits` are the seconds from due to answered, `refused` counts what was not 200."""

    def __init__(self, subject: Subject, rate: float, batch: int, seconds: float) -> None:
        self.waits: list[float] = []
        self.refused = 0
        self.sent = 0
        self._subject = subject
        self._batch = batch
        self._pause = batch / rate
        self._count = round(seconds / self._pause)
        self._due: queue.Queue[tuple[float, bytes] | None] = queue.Queue()

    def run(self) -> None:
        """Send everything and return once it is answered."""
        senders = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]
        for sender in senders:
            sender.start()
        bodies = self._bodies()
        began = time.perf_counter()
        for number in range(self._count):
            body, due = next(bodies), began + number * self._pause
            time.sleep(max(0.0, due - time.perf_counter()))  # noqa: TID251 - the load's own pace
            self._due.put((due, body))
            self.sent += self._batch
        for _ in senders:
            self._due.put(None)
        for sender in senders:
            sender.join()

    def _bodies(self) -> Iterator[bytes]:
        lines = rounds((self._count + 1) * self._batch)
        while some := list(itertools.islice(lines, self._batch)):
            yield HEAD + b",".join(line.rstrip() for line in some) + TAIL

    def _send(self) -> None:
        context = ssl.create_default_context(cafile=str(self._subject.ca.pair.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self._subject.port, context=context, timeout=30)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        while (found := self._due.get()) is not None:
            due, body = found
            connection.request("POST", "/v1/audit", body, headers)
            answer = connection.getresponse()
            answer.read()
            self.waits.append(time.perf_counter() - due)
            self.refused += answer.status != 200
        connection.close()


def watch(pid: int, seconds: float, begun: float) -> tuple[list[float], float]:
    """Return the resident memory, second by second once warm, and the share of a core from then on."""
    memory = []
    while time.perf_counter() - begun < WARM_SECONDS and seconds > 2 * WARM_SECONDS:
        time.sleep(0.1)  # noqa: TID251 - another process is measured
    start, used = time.perf_counter(), cpu(pid)
    while time.perf_counter() - begun < seconds:
        memory.append(resident(pid))
        time.sleep(1.0)  # noqa: TID251 - another process is measured
    return memory, (cpu(pid) - used) / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4000.0, help="events a second")
    parser.add_argument("--batch", type=int, default=100, help="events in a request; an API server's default is 400")
    parser.add_argument("--rules", default="", help="rules to run, such as pack or examples/rules")
    parser.add_argument("--profile", default="", help="write the receiver's cProfile there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), args.rules, args.profile)
        load = Load(subject, args.rate, args.batch, args.seconds)
        sender = threading.Thread(target=load.run)
        begun = time.perf_counter()
        sender.start()
        memory, share = watch(subject.process.pid, args.seconds, begun)
        sender.join()
        taken = subject.metric("ugallu_audit_webhook_events_total")
        spooled = subject.metric("ugallu_audit_webhook_spool_bytes") / 2**20
        code = subject.stop()
    waits = sorted(load.waits)
    step = max(1, len(memory) // 4)
    quarters = [statistics.median(memory[at : at + step]) for at in range(0, 4 * step, step) if memory[at : at + step]]
    print(f"{load.sent:,} events in {len(waits):,} requests, {load.refused} not answered with 200")
    print(f"answered after {at(waits, 0.5):.1f} ms (p50), {at(waits, 0.99):.1f} (p99), {waits[-1] * 1e3:.1f} at most")
    print(f"the receiver: {share:.1%} of a core; spool at the end {spooled:.0f} MiB")
    print(f"resident, quarter by quarter: {', '.join(f'{mib:.1f}' for mib in quarters)} MiB; {max(memory):.1f} at most")
    print(f"the machine's load when it ended: {os.getloadavg()[0]:.1f}")
    return 0 if code == 0 and load.refused == 0 and taken == load.sent else 1


def at(waits: list[float], share: float) -> float:
    """Return the wait in ms within which so many lie."""
    return waits[min(len(waits) - 1, int(len(waits) * share))] * 1e3


if __name__ == "__main__":
    sys.exit(main())
