"""From signals to levels."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.emit.gate import Level
from ugallu.errors import PermanentError
from ugallu.runtime.backpressure.level import Levels, Smooth, Thresholds
from ugallu.runtime.backpressure.signals import look, samples

G, Y, R = Level.GREEN, Level.YELLOW, Level.RED


@pytest.mark.parametrize(
    ("start", "pressures", "levels"),
    [
        (G, [0.69, 0.70, 0.69, 0.50, 0.49], [G, Y, Y, Y, G]),
        (G, [0.95], [R]),
        (R, [0.10, 0.10], [Y, G]),
        # B9: a pressure around one threshold changes the level once.
        (G, [0.90, 0.89, 0.90, 0.86, 0.90, 0.84, 0.86], [R, R, R, R, R, Y, Y]),
        # B3: a database that was defragmented is smaller, if not small: falling is recovery too.
        (Y, [0.72] * 9 + [0.71, 0.62], [Y] * 10 + [G]),
        (R, [0.92, 0.60] + [0.60] * 12, [R] + [Y] * 11 + [G] * 2),
        (Y, [0.62] * 20, [Y] * 20),
        # A fall that leads nowhere near to room, or that comes at once, is half of a swing.
        (G, [0.72] * 12 + [0.66, 0.71] * 9, [Y] * 30),
        (G, [0.72, 0.60] * 5, [Y] * 10),
    ],
)
def test_levels_go_up_at_once_and_down_in_steps(start: Level, pressures: list[float], levels: list[Level]) -> None:
    """Red steps to yellow, never to green at once; yellow stays until there is room, or room is being made."""
    at = Levels(Thresholds(), start)
    assert [at.take(pressure) for pressure in pressures] == levels


@given(st.lists(st.floats(0, 3, allow_nan=False), max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_way_leads_past_a_level(pressures: list[float]) -> None:
    """At or beyond red it is red; below recovery it is never red twice; red and green are never neighbours downwards."""
    at = Levels(Thresholds())
    for pressure in pressures:
        before = at.level
        now = at.take(pressure)
        assert (now is R) if pressure >= 0.90 else not (before is R and now is G)
        assert now is not G or pressure < 0.70


@pytest.mark.parametrize(("middle", "swing", "period"), [(0.69, 0.05, 2), (0.695, 0.02, 12), (0.70, 0.04, 30)])
def test_a_pressure_that_swings_around_yellow_does_not_flap(middle: float, swing: float, period: int) -> None:
    """B9: two API servers that see two sizes, or a load that comes and goes, change the level once in two hours."""
    at, smooth = Levels(Thresholds()), Smooth()
    levels = [
        at.take(smooth.take({"etcd": middle + swing * math.cos(2 * math.pi * n / period)})["etcd"]) for n in range(240)
    ]
    assert sum(one is not other for one, other in pairwise(levels)) <= 1
    assert levels[-1] is Y


def test_thresholds_that_cross_are_refused() -> None:
    """recover < yellow < red, with room for hysteresis."""
    with pytest.raises(PermanentError, match="must hold"):
        Thresholds(yellow_at=0.88)
    with pytest.raises(PermanentError, match="must hold"):
        Thresholds(recover_at=0.7)


def test_one_strange_server_moves_the_level_by_half() -> None:
    """B4: each scrape reaches some API server; what one alone says is halved, what all say is believed."""
    smooth = Smooth()
    assert smooth.take({"etcd": 0.4}) == {"etcd": 0.4}
    assert smooth.take({"etcd": 0.8}) == {"etcd": pytest.approx(0.6)}
    assert smooth.take({"etcd": 0.8, "backlog": 0.1}) == {"etcd": pytest.approx(0.7), "backlog": 0.1}
    assert smooth.take({"backlog": 0.1}) == {"backlog": pytest.approx(0.1)}


PAGE = b"""\
# HELP apiserver_storage_size_bytes Size of the storage database file.
apiserver_storage_size_bytes{storage_cluster_id="etcd-0"} 2.5e+09
apiserver_storage_size_bytes{storage_cluster_id="etcd-1"} 4.0e+09
etcd_db_total_size_in_bytes{endpoint="a"} 9e+09
apiserver_storage_objects{resource="securityevents.security.ugallu.io"} 1234
apiserver_storage_objects{resource="pods"} 99999
apiserver_flowcontrol_rejected_requests_total{flow_schema="a",reason="queue-full"} 3
apiserver_flowcontrol_rejected_requests_total{flow_schema="b",reason="time-out"} 4
process_start_time_seconds 1.7e+09
"""


def test_the_fullest_back_end_counts_and_no_sum() -> None:
    """B2: two back ends have each their own room, and members of one etcd report the same database again."""
    page = look(samples(PAGE))
    assert (page.used, page.events, page.rejected, page.server) == (4_000_000_000, 1234, 7.0, 1.7e9)
    legacy = b'etcd_db_total_size_in_bytes{endpoint="a"} 5\netcd_db_total_size_in_bytes{endpoint="b"} 6\n'
    assert look(samples(legacy)).used == 6


def test_free_pages_do_not_count_where_a_server_says_so() -> None:
    """B3: after a compaction the file is as large as before; what is in use is what matters."""
    assert look(samples(PAGE + b"etcd_mvcc_db_total_size_in_use_in_bytes 1e9\n")).used == 1_000_000_000


@pytest.mark.parametrize(
    "line",
    [
        b"apiserver_storage_size_bytes NaN", b"apiserver_storage_size_bytes -5", b"apiserver_storage_size_bytes",
        b"apiserver_storage_size_bytes{", b"apiserver_storage_size_bytes +Inf", b"\xff\xfe apiserver_storage_size_bytes 5",
        b'apiserver_storage_size_bytes{x="' + b"y" * 5000 + b'"} 5', b"apiserver_storage_size_bytes 1e999",
    ],
)  # fmt: skip
def test_what_is_no_number_is_no_size(line: bytes) -> None:
    """Neither negative nor endless values become a pressure."""
    assert look(samples(line)).used is None


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_page_is_read_without_an_error(page: bytes) -> None:
    """A proxy's error page, half a line, anything."""
    found = look(samples(b"apiserver_storage_size_bytes " + page + b"\n" + page))
    assert found.used is None or found.used >= 0
