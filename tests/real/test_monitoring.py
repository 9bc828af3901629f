"""Alerts and dashboards before Debian's own Prometheus: rules that fire and recover, queries that run, a process that is scraped."""

import gzip
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.rig import packages
from tests.rig.ground import Process, wait
from ugallu.manifests.monitoring import documents

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "tests" / "data" / "prometheus").glob("*.yaml"))
NEEDED = {"prometheus": "prometheus", "promtool": "prometheus"}
ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
BROKEN = "UgalluAuditRuleCompileErrors"
"""The alert that is provoked, by a rule whose own test fails."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if packages.missing(NEEDED):
        packages.provide(NEEDED, "Prometheus")


def shipped() -> list[dict[str, Any]]:
    """The groups of the PrometheusRule, as a file of rules has them; a copy to change."""
    groups: list[dict[str, Any]] = json.loads(json.dumps(documents()["prometheusrule.yaml"][0]["spec"]["groups"]))
    return groups


def rules_file(folder: Path, groups: list[dict[str, Any]]) -> Path:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path


def promtool(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, input=stdin, env=ENVIRON, capture_output=True, text=True, check=False)


def test_the_rules_are_rules(tmp_path: Path) -> None:
    """What lies under `spec` of the PrometheusRule is a file of rules, to the last template."""
    done = promtool("check", "rules", rules_file(tmp_path, shipped()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_stop(tmp_path: Path) -> None:
    """Series that somebody must hear of, and some that are no reason to wake anybody; each with its one-line summary."""
    groups = shipped()
    for group in groups:
        group["interval"] = "1m"  # as the series: twice as often finds nothing more, and takes twice as long
    for rule in (rule for group in groups for rule in group["rules"]):
        # What to do stays the same whatever the labels: only the summary is a template worth a test.
        rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    rules_file(tmp_path, groups)
    copies = [shutil.copy(path, tmp_path) for path in UNITS]
    done = promtool("test", "rules", *copies)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_stops_in_some_test() -> None:
    """No alert is shipped that was never seen to fire."""
    fired: set[str] = set()
    quiet: set[str] = set()
    for path in UNITS:
        for unit in yaml.safe_load(path.read_text())["tests"]:
            for check in unit["alert_rule_test"]:
                (fired if check["exp_alerts"] else quiet).add(check["alertname"])
    assert fired == quiet == {rule["alert"] for group in shipped() for rule in group["rules"]}


class Scraped(NamedTuple):
    """A process of ours under load, and the Prometheus that scrapes it."""

    metrics: str
    prometheus: str

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer of Prometheus' API; raises with what it says of an error."""
        where = f"http://{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(where, timeout=10) as answer:
                body = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {query}: {error.read().decode()}") from error
        assert body["status"] == "success", body
        assert not body.get("warnings"), body
        return body["data"]

    def value(self, expression: str) -> float:
        """Return the one value of an expression; 0 where it has none yet."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    with ours(folder) as metrics, prometheus(folder, metrics) as address:
        yield Scraped(metrics, address)


@contextmanager
def running(name: str, command: list[str], folder: Path) -> Iterator[Process]:
    process = Process(name, command, folder / f"{name}.log", ENVIRON)
    process.start()
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def ours(folder: Path) -> Iterator[str]:
    """Run over the recorded incident, with the example rules and one whose own test fails; return where metrics are."""
    log, rules = folder / "audit.log", folder / "rules"
    log.write_bytes(gzip.decompress((ROOT / "examples" / "audit.jsonl.gz").read_bytes()))
    shutil.copytree(ROOT / "examples" / "rules", rules)
    rule = yaml.safe_load((rules / "cluster-admin-granted.yaml").read_text())
    rule["metadata"]["name"] = "broken"
    for test in rule["spec"]["tests"]:
        test["expect"] = {"hit": "miss", "miss": "hit"}[test["expect"]]
    (rules / "broken.yaml").write_text(yaml.safe_dump(rule))
    where = ["--health", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    command = [sys.executable, "-m", "ugallu", "run", "--cluster", "embedded", "--state", str(folder / "state"), *where]
    command += ["--audit-log", str(log), "--from-start", "--rules", str(rules), "--log-format", "json"]
    with running("ugallu", command, folder) as process:

        def listening() -> str:
            process.check()
            for line in process.log.read_text().splitlines():
                if '"listening"' in line:
                    return str(json.loads(line)["metrics"])
            return ""

        yield wait("metrics", listening, 20, hint=process.tail)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run a Prometheus that scrapes as the PodMonitor has it, but each second, with rules that do not wait."""
    groups = shipped()
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule["for"] = "0s"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules_file(folder, groups))],
        "scrape_configs": [
            {
                "job_name": "ugallu",
                "static_configs": [{"targets": [target], "labels": {"pod": "ugallu-0", "namespace": "ugallu-system"}}],
            }
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    checked = promtool("check", "config", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["/usr/bin/prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with running("prometheus", [*command, f"--web.listen-address={address}"], folder) as process:

        def ready() -> bool:
            process.check()
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait("Prometheus", ready, 20, hint=process.tail)
        yield address


def test_what_a_process_exports_is_in_order(scraped: Scraped) -> None:
    """Prometheus' own tool has nothing to say about names, help and types."""
    wait("a sealed event", lambda: scraped.value("sum(ugallu_attestor_bundles_total)"), 20)
    with urllib.request.urlopen(f"http://{scraped.metrics}/metrics", timeout=10) as answer:
        exposition = answer.read().decode()
    done = promtool("check", "metrics", stdin=exposition)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_rule_is_heard_of(scraped: Scraped) -> None:
    """The alert fires with its state and its link, and no rule is one that Prometheus cannot evaluate."""

    def firing() -> list[dict[str, Any]]:
        alerts = scraped.ask("alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"]["alertname"] == BROKEN and alert["state"] == "firing"]

    (alert,) = wait("an alert that fires", firing, 20)
    assert alert["labels"] == {"alertname": BROKEN, "severity": "warning", "state": "broken"}
    assert alert["annotations"]["summary"] == "1 rules do not compile, or fail their own tests (broken)"
    assert alert["annotations"]["runbook_url"].endswith(f"/monitoring.md#{BROKEN.lower()}")

    def evaluated() -> list[dict[str, Any]]:
        found = [rule for group in scraped.ask("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    rules = wait("rules evaluated", evaluated, 20)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_every_panel_has_an_answer(scraped: Scraped) -> None:
    """No query of a dashboard is an error; and the first figures that one sees are there."""

    def answers(panel: dict[str, Any]) -> list[Any]:
        asked = [re.sub(r"\$__\w+", "1m", target["expr"]) for target in panel["targets"]]
        return [found for query in asked for found in scraped.ask("query", query=query)["result"]]

    panels = [(title, panel) for title, panel in dashboards() if "targets" in panel]
    assert len(panels) > 30
    for title, panel in panels:
        if panel["type"] == "stat":
            # An increase needs two samples.
            wait(f"{title}: {panel['title']}", partial(answers, panel), 20)
        else:
            answers(panel)


def dashboards() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (dashboard, panel) of what is shipped."""
    for name, (config_map, *_) in documents().items():
        if name.startswith("dashboard-"):
            (text,) = config_map["data"].values()
            dashboard = json.loads(text)
            yield from ((dashboard["title"], panel) for panel in dashboard["panels"])
