"""Metric names are a contract: dashboards and alerts depend on them."""

from pathlib import Path

from ugallu.metrics import CATALOGUE

FROZEN = Path(__file__).parents[1] / "data" / "metrics" / "catalogue.txt"


def test_the_catalogue_is_the_one_that_users_know() -> None:
    """A name, kind or label that changes must change here too, on purpose and with a newsfragment."""
    ours = [f"{kind} {name}{{{','.join(labels)}}}" for name, (kind, _, labels) in sorted(CATALOGUE.items())]
    assert ours == FROZEN.read_text().splitlines()


def test_every_metric_says_what_it_means() -> None:
    """No metric without a sentence, no counter without its suffix."""
    for name, (kind, meaning, _) in CATALOGUE.items():
        assert meaning.endswith("."), name
        assert (kind == "counter") == name.endswith("_total"), name
