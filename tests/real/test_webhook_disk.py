"""An audit webhook on a disk that is really slow, then really full, under load: a small file system of the process's own.

What an API server does is done here by hand, quicker: each batch is sent until it is acknowledged. So what was acknowledged
can be held against what became of it.
"""

import contextlib
import errno
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import yaml

from benchmarks.rest import resident
from tests.rig.ground import Process, free_port, wait
from tests.rig.keys import Authority
from ugallu.api.event import SecurityEvent
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all

pytestmark = pytest.mark.real

DISK: Final = 24 << 20
BATCH: Final = 20
SENDERS: Final = 8
MOUNT: Final = 'mount -t tmpfs -o size="$1" tmpfs "$0"; shift; exec "$@"'
SLOW: Final = """
import os, pathlib, sys, time
delay, settle = pathlib.Path(sys.argv.pop(1)), os.fsync
os.fsync = lambda fd: (time.sleep(float(delay.read_text())), settle(fd))
from ugallu.cli.main import main
sys.exit(main())
"""
RULE: Final = {
    "apiVersion": "security.ugallu.io/v1alpha1",
    "kind": "SigmaRule",
    "metadata": {"name": "marked"},
    "spec": {
        "description": "One event of each batch.",
        "match": {"objectRef": {"nameGlob": ["marked-*"]}},
        "rateLimit": {"burst": 10_000, "sustainedPerSec": 1000},
        "emit": {"securityEventType": "KubernetesAPICall", "class": "Detection", "severity": "medium"},
    },
}


def batch(number: int) -> bytes:
    """Some 30 kB of events, the first of them one that is reported."""
    names = [f"marked-{number}", *(f"other-{number}-{at}" for at in range(1, BATCH))]
    items = [
        {
            "level": "Request",
            "auditID": name,
            "stage": "ResponseComplete",
            "requestURI": f"/api/v1/namespaces/traffic/configmaps/{name}",
            "verb": "update",
            "user": {"username": "alice"},
            "objectRef": {"resource": "configmaps", "namespace": "traffic", "name": name, "apiVersion": "v1"},
            "responseStatus": {"code": 200},
            "requestObject": {"filling": "x" * 1200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
            "stageTimestamp": f"2026-01-01T00:00:00.{number:06}Z",
        }
        for name in names
    ]
    return json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}).encode()


class Subject:
    """`ugallu run` with its state on a file system that nobody else has, and fsyncs that take as long as a file says."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder, "ca")
        pair = self.ca.issue("server", "server", hosts=("127.0.0.1",))
        self.port, self.health, self.metrics = free_port(), free_port(), free_port()
        disk, token, rules = folder / "disk", folder / "token", folder / "rules.yaml"
        self.delay = folder / "delay"
        self.delay.write_text("0")
        disk.mkdir()
        token.write_text("let-me-in")
        rules.write_text(yaml.safe_dump(RULE))
        apart = ["unshare", "--mount", "--propagation=private", *(["--map-root-user"] if os.geteuid() else [])]
        run = [
            sys.executable, "-c", SLOW, str(self.delay), "run", "--state", str(disk / "state"), "--rules", str(rules),
            "--enable", "audit-detection", "--cluster", "embedded", "--no-seal", "--log-format", "json",
            "--webhook", f"127.0.0.1:{self.port}", "--webhook-token-file", str(token),
            "--webhook-tls-cert", str(pair.certificate), "--webhook-tls-key", str(pair.key),
            "--health", f"127.0.0.1:{self.health}", "--metrics", f"127.0.0.1:{self.metrics}",
        ]  # fmt: skip
        command = [*apart, "sh", "-ec", MOUNT, str(disk), str(DISK), *run]
        self.process = Process("ugallu", command, folder / "ugallu.log", dict(os.environ))  # noqa: TID251 - as it is
        self._disk = disk

    @property
    def disk(self) -> Path:
        """The file system, seen from here."""
        return Path(f"/proc/{self.process.pid}/root") / self._disk.relative_to("/")

    def healthy(self, path: str = "readyz") -> bool:
        self.process.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """Return a metric's sum over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            found = [line for line in answer.read().decode().splitlines() if line.partition("{")[0].split()[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def objects(self, folder: Path) -> list[str]:
        """Return what the events in the state are about, each as often as there is an event of it; when all is quiet.

        From a copy: SQLite resolves links, and would look for the state on this side.
        """
        shutil.copytree(self.disk / "state", folder)
        return anyio.run(_objects, folder)

    def wait(self, what: str, check: Callable[[], Any], seconds: float = 30) -> None:
        wait(what, check, seconds, hint=self.process.tail)


async def _objects(state: Path) -> list[str]:
    cluster = EmbeddedCluster.open(state, read_only=True)
    try:
        found, _ = await list_all(cluster, SecurityEvent)
        return sorted(event.spec.subject.name for event in found if event.spec.type == "KubernetesAPICall")
    finally:
        await cluster.close()


class Load:
    """Batches without a pause, each until it is acknowledged; `answers` counts, `told` is what came with a 503."""

    def __init__(self, subject: Subject) -> None:
        self.acknowledged: list[int] = []
        self.answers: Counter[int] = Counter()
        self.told: Counter[tuple[str | None, str]] = Counter()
        self._subject = subject
        self._numbers = itertools.count()
        self._over = threading.Event()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        senders = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        try:
            yield
        finally:
            self._over.set()
            for sender in senders:
                sender.join()

    def _send(self) -> None:
        context = ssl.create_default_context(cafile=str(self._subject.ca.pair.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self._subject.port, context=context, timeout=30)
        headers = {"Content-Type": "application/json", "Authorization": "Bearer let-me-in"}
        while not self._over.wait(0.1):
            number, status = next(self._numbers), 0
            while status != 200:
                connection.request("POST", "/v1/audit", batch(number), headers)
                answer = connection.getresponse()
                status, why = answer.status, answer.read().decode()
                self.answers[status] += 1
                if status != 200:
                    self.told[answer.getheader("Retry-After"), why] += 1
                    self._over.wait(0.1)
            self.acknowledged.append(number)
        connection.close()


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    made = Subject(tmp_path)
    made.process.start()
    try:
        made.wait("ready", made.healthy)
        yield made
    finally:
        made.process.stop()


def fill(path: Path) -> None:
    """Take what a disk has, to the last byte."""
    with path.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while ballast.write(bytes(size)) == size:
                    pass
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), path.open("ab", buffering=0) as ballast:
        ballast.write(b"x")


def test_a_slow_and_a_full_disk_cost_an_api_server_nothing_but_time(subject: Subject, tmp_path: Path) -> None:
    """Slow: acknowledged late. Full: 503 with Retry-After and not ready, and well again once there is room.

    What was acknowledged is there, once; and memory is where it was.
    """
    load = Load(subject)
    with load.sending():
        subject.wait("traffic", lambda: len(load.acknowledged) > 100)
        before = resident(subject.process.pid)

        subject.delay.write_text("0.3")
        late = len(load.acknowledged) + 50
        subject.wait("acknowledged by a slow disk", lambda: len(load.acknowledged) > late)
        assert set(load.answers) == {200}
        subject.delay.write_text("0")

        ballast = subject.disk / "ballast"
        fill(ballast)
        subject.wait("refusals", lambda: load.answers[503] > 10 * SENDERS)
        assert subject.healthy("healthz")
        assert subject.metric("ugallu_audit_webhook_backpressure_total") > 0
        ballast.unlink()
        held = len(load.acknowledged)
        subject.wait("acknowledged again", lambda: len(load.acknowledged) > held + 50)
        refused = load.answers[503]
        subject.wait("and again", lambda: len(load.acknowledged) > held + 100)
        assert load.answers[503] == refused
        after = resident(subject.process.pid)
    assert set(load.answers) == {200, 503}
    assert {retry for retry, _ in load.told} == {"2"}
    seen = len(load.acknowledged)
    subject.wait("all seen", lambda: subject.metric("ugallu_audit_events_total") >= seen * BATCH)
    subject.wait("all told", lambda: subject.metric("ugallu_emitter_emitted_total") >= seen)
    assert subject.metric("ugallu_audit_events_total") == seen * BATCH
    assert subject.metric("ugallu_audit_rule_matches_total") == seen
    assert subject.objects(tmp_path / "copy") == sorted(f"marked-{number}" for number in load.acknowledged)
    subject.wait("ready", subject.healthy)
    assert after - before < 24, f"{before:.0f} MiB, then {after:.0f}"
    subject.process.stop(signal.SIGTERM)
