"""The page for whoever is woken up: every alert with its first steps, every metric with its meaning. A pure text."""

import textwrap
from collections.abc import Iterator
from typing import Final

from ugallu.manifests.monitoring.alerts import GROUPS, Alert
from ugallu.metrics import CATALOGUE

COMMAND: Final = "python -c 'from ugallu.manifests.monitoring.page import page; print(page())' > docs/monitoring.md"
_HEAD: Final = f"""\
# Monitoring

Generated from `ugallu/manifests/monitoring` and `ugallu/metrics.py`; do not edit:
`{COMMAND}`

Every process serves Prometheus' format at `:9090/metrics`, and says at `:8081/readyz` what keeps it from being ready.
The component `monitoring` of the manifests brings alerts, a PodMonitor and two dashboards to a cluster that runs the
Prometheus operator and a Grafana with its sidecar:

```yaml
# kustomization.yaml
resources: [https://github.com/ugallu/ugallu/manifests/overlays/standard?ref=main]
components: [https://github.com/ugallu/ugallu/manifests/components/monitoring?ref=main]
```

- A Prometheus that selects rules and monitors by label wants its label on both (often `release: NAME`): add it with
  `labels` in that kustomization.
- The hardened overlay lets only the namespace `monitoring` scrape.
- Without the operator, `rule_files` takes what lies under `spec` of `prometheusrule.yaml`, and the JSON in the
  ConfigMaps imports into any Grafana.
- `critical` is for now, `warning` for today, `info` for some day. An alert names no threshold that a setting moves, but
  one: UgalluJournalFilling knows the default size of the journal.

Metrics tell that something is wrong. What was found is in `kubectl get securityevents`, and what a process thinks of
itself is reported there too (`SourceRateLimited`, `AuditLogStreamSilent`, `ClockSkewDetected`).
"""


def page() -> str:
    """Return the page as Markdown, without its last newline."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## Alerts"
    for group in GROUPS:
        yield from ("", f"### {group.title}")
        for alert in group.alerts:
            yield from _alert(alert)
    yield from ("", "## Metrics", "", "| Metric | Kind | Labels | Meaning |", "|---|---|---|---|")
    for name, (kind, meaning, labels) in sorted(CATALOGUE.items()):
        yield f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"


def _alert(alert: Alert) -> Iterator[str]:
    lasts = "at once" if alert.lasts == "0s" else f"after {alert.lasts}"
    yield from ("", f"#### {alert.name}", "")
    yield _wrapped(f"*{alert.severity}, {lasts}.* {alert.meaning}")
    yield from ("", _wrapped(f"First: {alert.first}"), "", "```promql", alert.expr, "```")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
