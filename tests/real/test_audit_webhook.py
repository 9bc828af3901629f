"""A real API server tells both backends at once, its log file and our webhook: the same events come of either, and once of both.

The audit policy records one namespace and nothing else, and a rule makes an event of every record. So what is visible
can be held against the log file line by line, and against the API server's own counters.
"""

import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import yaml

from tests.rig.cluster import ApiServer, AuditWebhook, Options
from tests.rig.ground import free_port, wait
from tests.rig.keys import Authority
from ugallu.api.event import SecurityEvent
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.emit.identity import digest

pytestmark = pytest.mark.real

NAMESPACE: Final = "traffic"
POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse",
            "namespaces": [NAMESPACE],
            "verbs": ["create"],
            "resources": [{"group": "", "resources": ["configmaps"]}],
        },
        {"level": "None"},
    ],
}
RULE: Final = {
    "apiVersion": "security.ugallu.io/v1alpha1",
    "kind": "SigmaRule",
    "metadata": {"name": "everything"},
    "spec": {
        "description": "Every record.",
        "match": {"objectRef": {"namespace": [NAMESPACE]}},
        "rateLimit": {"burst": 10_000, "sustainedPerSec": 1000},
        "emit": {"securityEventType": "KubernetesAPICall", "class": "Detection", "severity": "medium"},
    },
}


class Reader:
    """One `ugallu run` over a state of its own: the log file, the webhook, or both."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.health, self.metrics = free_port(), free_port()
        self._log = state.with_suffix(".log")
        rules = state.with_suffix(".yaml")
        rules.write_text(yaml.safe_dump(RULE))
        self._command = [
            sys.executable, "-m", "ugallu", "run", "--state", str(state), "--rules", str(rules), "--no-seal",
            "--enable", "audit-detection", "--cluster-id", "rig", "--instance", "one", "--log-format", "json",
            "--health", f"127.0.0.1:{self.health}", "--metrics", f"127.0.0.1:{self.metrics}", *arguments,
        ]  # fmt: skip

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, cwd="/")
        wait(f"{self.state.name} ready", self._ready, 30, hint=self.tail)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.tail()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        self._process.send_signal(with_signal)
        return self._process.wait(40)

    def end(self) -> None:
        """Leave no process behind, whatever became of the test."""
        if getattr(self, "_process", None) and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    def events(self) -> dict[str, str]:
        """Return the digest of the spec of each event there is, by name."""
        return {event.metadata.name: digest(event.spec) for event in self._list()}

    def objects(self) -> list[str]:
        """Return what the events are about, each as often as there is an event of it."""
        return sorted(event.spec.subject.name for event in self._list())

    def _list(self) -> list[SecurityEvent]:
        return anyio.run(_events, self.state)

    @property
    def matches(self) -> float:
        """How often the rule has matched: once a request, unless a request was seen twice."""
        return self.metric("ugallu_audit_rule_matches_total")

    def metric(self, name: str) -> float:
        """Return a metric's sum over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            return summed(answer.read().decode(), name)


async def _events(state: Path) -> list[SecurityEvent]:
    """Return what is in a state directory, while a process works on it."""
    cluster = EmbeddedCluster.open(state, read_only=True)
    try:
        return (await list_all(cluster, SecurityEvent))[0]
    finally:
        await cluster.close()


def summed(text: str, name: str, having: str = "") -> float:
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if having in labels)


class Scene:
    """The API server, the keys of the webhook, and the traffic so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = Authority(folder, "webhook-ca")
        self.server = self.authority.issue("server", "server", hosts=("127.0.0.1",))
        self.client = self.authority.issue("client", "kube-apiserver")
        self.token = folder / "token"
        self.token.write_text("let-me-in")
        self.readers: list[Reader] = []
        self.made = 0
        policy = folder / "policy.yaml"
        policy.write_text(yaml.safe_dump(POLICY))
        url = f"https://127.0.0.1:{self.port}/v1/audit"
        sink = AuditWebhook(url, self.authority.pair.certificate, token="let-me-in", client=self.client)
        self.api = ApiServer(Options(audit_policy=policy, audit_webhook=sink))

    def reader(self, name: str, *, file: bool = False, webhook: bool = False) -> Reader:
        arguments: list[str] = []
        if file:
            arguments += ["--audit-log", str(self.api.audit_log), "--from-start"]
        if webhook:
            arguments += ["--webhook", f"127.0.0.1:{self.port}", "--webhook-token-file", str(self.token)]
            arguments += ["--webhook-tls-cert", str(self.server.certificate), "--webhook-tls-key", str(self.server.key)]
            arguments += ["--webhook-client-ca", str(self.authority.pair.certificate)]
        made = Reader(self.folder / name, *arguments)
        self.readers.append(made)
        return made

    def act(self, count: int) -> list[str]:
        """Create so many objects and return their names, each another one; every one is a line in the log file."""
        names = [f"made-{self.made + number:05}" for number in range(count)]
        for name in names:
            self.made += 1
            self.api.create(f"/api/v1/namespaces/{NAMESPACE}/configmaps", {"metadata": {"name": name}})
        return names

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Have traffic all the while."""
        over = threading.Event()

        def act() -> None:
            while not over.is_set():
                self.act(1)

        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def given_up(self) -> int:
        """Return how many events the API server says that its webhook backend did not get rid of."""
        status, text = self.api.request("GET", "/metrics")
        assert status == 200
        return round(summed(text.decode(), "apiserver_audit_error_total", 'plugin="webhook"'))

    def counted(self) -> int:
        """Return how many events the API server says that it has made."""
        return round(summed(self.api.request("GET", "/metrics")[1].decode(), "apiserver_audit_event_total"))

    def lines(self) -> list[str]:
        """Return what the records in the log file are about; blocking mode: it is complete."""
        return sorted(event["objectRef"]["name"] for event in self.api.audit())

    def told_by(self, reader: Reader) -> bool:
        """Tell whether a reader has matched every line and made an event of each."""
        return reader.matches == len(self.lines()) and reader.objects() == self.lines()

    def wait(self, what: str, check: Callable[[], Any]) -> None:
        wait(what, check, 60, every=0.1, hint=lambda: "\n".join(reader.tail() for reader in self.readers))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("webhook"))
    try:
        with scene.api:
            scene.api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            yield scene
    finally:
        for reader in scene.readers:
            reader.end()


def test_file_and_webhook_give_the_same_events(scene: Scene) -> None:
    """Two processes, one at the log file, one behind the webhook with certificate and token: equal names, equal specs.

    And a third one that reads both has each of them once: nothing more is counted than by who reads the file alone.
    """
    file = scene.reader("file", file=True)
    webhook = scene.reader("webhook", webhook=True)
    both = scene.reader("both", file=True, webhook=True)
    webhook.start()
    file.start()
    scene.act(60)
    for reader in (file, webhook):
        scene.wait("an event of every line", partial(scene.told_by, reader))
    assert webhook.events() == file.events()
    assert webhook.stop() == 0, webhook.tail()
    before = len(scene.lines())
    with scene.acting():
        both.start()
        scene.wait("events by the webhook", lambda: both.metric("ugallu_audit_webhook_events_total") > 50)
    fresh = len(scene.lines()) - before
    scene.wait("all of both", lambda: both.metric("ugallu_audit_webhook_events_total") >= fresh - scene.given_up())
    scene.wait("all events of both", lambda: both.events() == file.events())
    scene.wait("all read twice", lambda: both.metric("ugallu_audit_duplicate_total") > 0)
    assert both.matches == file.matches == len(scene.lines())
    assert both.stop() == file.stop() == 0


def test_killed_and_stopped_under_traffic(scene: Scene) -> None:
    """Nothing that was acknowledged is lost, nothing is visible twice, and what is missing the API server has counted.

    Killed twice, between whatever it was doing, and started again; then stopped for longer than the API server tries.
    """
    webhook = scene.reader("killed", webhook=True)
    webhook.start()
    old, given_up, counted = len(scene.lines()), scene.given_up(), scene.counted()

    def missing() -> list[str]:
        return sorted(set(scene.lines()[old:]) - set(webhook.objects()))

    with scene.acting():
        for _ in range(2):
            scene.wait("traffic", lambda: webhook.metric("ugallu_audit_webhook_events_total") > 20)
            webhook.stop(signal.SIGKILL)
            webhook.start()
    # What the API server tries again comes late: a loss stays.
    scene.wait("every event, but those given up", lambda: len(missing()) <= scene.given_up() - given_up)
    before, given_up = missing(), scene.given_up()

    assert webhook.stop() == 0, webhook.tail()
    lost = scene.act(30)
    scene.wait("the API server to give up", lambda: scene.given_up() - given_up >= len(lost))
    webhook.start()
    later = scene.act(5)
    scene.wait("what came later", lambda: set(later) <= set(webhook.objects()))
    assert missing() == sorted([*before, *lost])
    assert scene.given_up() - given_up == len(lost)
    assert scene.counted() - counted == len(scene.lines()) - old
    assert len(webhook.objects()) == len(set(webhook.objects()))
    assert webhook.stop() == 0, webhook.tail()
