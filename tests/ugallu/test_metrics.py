"""Metrics: only names of the catalogue, and values that a scrape shows."""

import pytest

from ugallu.metrics import CATALOGUE, Metrics


def test_what_is_counted_is_rendered() -> None:
    """Counter, gauge and histogram appear in the exposition with their labels."""
    metrics = Metrics()
    metrics.count("ugallu_emitter_dropped_total", 2, reason="undeclared")
    metrics.gauge("ugallu_operator_ready", 1, operator="attestor")
    metrics.observe("ugallu_emitter_emit_latency_seconds", 0.004)
    text = metrics.render().decode()
    assert 'ugallu_emitter_dropped_total{reason="undeclared"} 2.0' in text
    assert 'ugallu_operator_ready{operator="attestor"} 1.0' in text
    assert 'ugallu_emitter_emit_latency_seconds_bucket{le="0.005"} 1.0' in text
    assert metrics.value("ugallu_emitter_dropped_total", reason="undeclared") == 2
    assert metrics.value("ugallu_emitter_dropped_total", reason="other") == 0


def test_a_name_outside_the_catalogue_is_refused() -> None:
    """Nobody invents a metric in passing."""
    with pytest.raises(KeyError):
        Metrics().count("ugallu_made_up_total")


def test_every_entry_can_be_touched_and_rendered() -> None:
    """The catalogue holds no entry that the library would refuse."""
    metrics = Metrics()
    for name, (kind, _, labels) in CATALOGUE.items():
        values = dict.fromkeys(labels, "x")
        if kind == "counter":
            metrics.count(name, 1.0, **values)
        elif kind == "gauge":
            metrics.gauge(name, 1.0, **values)
        else:
            metrics.observe(name, 1.0, **values)
    text = metrics.render().decode()
    assert all(f"# TYPE {name.removesuffix('_total')}" in text for name in CATALOGUE)


def test_two_processes_in_one_interpreter_do_not_share_counters() -> None:
    """Each Metrics has a registry of its own."""
    one, two = Metrics(), Metrics()
    one.count("ugallu_audit_file_lines_total")
    assert two.value("ugallu_audit_file_lines_total") == 0
