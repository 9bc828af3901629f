"""Alerts and dashboards ask for what we export, and for nothing else."""

import json
import re
from collections.abc import Iterator

import pytest

from ugallu.manifests.monitoring import documents
from ugallu.manifests.monitoring.alerts import GROUPS
from ugallu.manifests.pages import pages
from ugallu.metrics import CATALOGUE

NAME = re.compile(r"\bugallu_\w+")
MATCHER = re.compile(r"(ugallu_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
SCRAPED = {"pod", "namespace", "instance", "job", "le"}
"""What Prometheus and the PodMonitor add, and the bound of a histogram's bucket."""
ALERTS = [alert for group in GROUPS for alert in group.alerts]


def queries() -> Iterator[tuple[str, str]]:
    """Yield (where, expression) of all alerts and panels, as they are shipped."""
    shipped = documents()
    for group in shipped["prometheusrule.yaml"][0]["spec"]["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for name, (config_map, *_) in shipped.items():
        if name.startswith("dashboard-"):
            (text,) = config_map["data"].values()
            for panel in json.loads(text)["panels"]:
                yield from ((f"{name}: {panel['title']}", target["expr"]) for target in panel.get("targets", ()))


def exported() -> Iterator[str]:
    """Yield the names of samples."""
    for name, (kind, _, _) in CATALOGUE.items():
        yield from (f"{name}_{part}" for part in ("bucket", "sum", "count")) if kind == "histogram" else (name,)


def labels(name: str) -> set[str]:
    return set(CATALOGUE[name if name in CATALOGUE else name.rpartition("_")[0]][2])


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*query, id=query[0]) for query in queries()])
def test_a_query_asks_for_samples_that_exist(where: str, expression: str) -> None:
    """Every name is a sample of the catalogue, and every label in a selector or a grouping is one of it."""
    names = set(NAME.findall(expression))
    assert names, where
    assert names <= set(exported())
    for name, matchers in MATCHER.findall(expression):
        assert set(LABEL.findall(matchers)) <= labels(name) | SCRAPED, name
    known = SCRAPED.union(*map(labels, names))
    for grouping in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in grouping.split(",")} <= known


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    """Unique names; the rule carries the sentences, and its link leads to the section of the page."""
    page = pages()["monitoring.md"]
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    rules = {
        rule["alert"]: rule
        for group in documents()["prometheusrule.yaml"][0]["spec"]["groups"]
        for rule in group["rules"]
    }
    assert rules.keys() == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        rule = rules[alert.name]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"] == alert.summary
        assert rule["annotations"]["runbook_url"].endswith(f"docs/monitoring.md#{alert.name.lower()}")
        assert f"\n#### {alert.name}\n" in page
