"""Correlations on one core: matches a second from a decoded event to a verdict, and what a live group costs.

    python -m benchmarks.correlation [--events N] [--groups N] [--rounds N] [--quick]

Bars: 200,000 matches a second and 512 bytes a group, for each type of correlation. Rates are per CPU second, the median
of the rounds, with garbage collection and batches of freshly decoded events as in the product, and callers that a round
sees for the first time; bytes are what the process holds more once all groups are live, divided by the groups. The last
line is the whole engine with one rule that everything matches and nobody hears of: hidden by an exception, or counted.
"""

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ugallu.sdk import AuditRecord
from ugallu.testing.correlations import correlation_spec, event_at
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.correlation.correlator import Correlator
from ugallu_audit_detection.engine import Case, Engine
from ugallu_audit_detection.sigma.view import Callers

EVERYTHING: dict[str, Any] = {"match": {"stage": ["ResponseComplete"]}}
TYPES: dict[str, dict[str, Any]] = {
    "event_count": {"condition": {"gte": 10}},
    "value_count": {"condition": {"gte": 10, "field": "objectRef.name"}},
    "temporal": {"rules": ["first", "second", "third"], "condition": None},
    "temporal_ordered": {"rules": ["first", "second", "third"], "condition": None},
}
RULES = ("first", "second", "third")
BATCH = 512
decode = msgspec.json.Decoder(AuditRecord).decode


def lines(count: int, groups: int) -> list[bytes]:
    """Return events of so many users, each reading one of a few Pods, a millisecond apart."""
    return [
        msgspec.json.encode(
            event_at(
                number / 1000,
                auditID=f"{number:08x}-0000-4000-8000-000000000000",
                user={"username": f"system:serviceaccount:shop:runner-{number % groups}"},
                objectRef={"resource": "pods", "namespace": "shop", "name": f"web-{number // groups % 7}"},
            )
        )
        for number in range(count)
    ]


def batches(events: Sequence[bytes], callers: Callers) -> Iterator[list[Case]]:
    """Decode batch by batch: what a correlation counts has just been looked at."""
    for begin in range(0, len(events), BATCH):
        yield [Case(decode(line), callers) for line in events[begin : begin + BATCH]]


def linked(kind: str) -> tuple[Armed, list[str]]:
    changed = {"rules": ["first"], "timespan": "10m", "group_by": ["user.username"], **TYPES[kind]}
    return arm(kind, correlation_spec(type=kind, **changed), {}), list(changed["rules"])


def correlator(kind: str) -> tuple[Correlator, list[str]]:
    made = Correlator(max_bytes=1 << 30)
    armed, rules = linked(kind)
    for name in RULES:
        made.arm(arm(name, rule_spec(**EVERYTHING), {}))
    made.arm(armed)
    return made, rules


def fed(made: Correlator, cases: Sequence[Case], rules: Sequence[str], first: int = 0) -> int:
    """Feed each event as a match of the next rule in turn; return how many crossings that makes."""
    turns, feed, crossings = len(rules), made.feed, 0
    names = [(rule,) for rule in rules]
    for number, case in enumerate(cases, first):
        # Two of three rounds of a group stay with its first rules, so that groups live on instead of crossing at once.
        for _ in feed(case, case.now, names[number % 97 % turns]):
            crossings += 1
    return crossings


def measure(kind: str, events: Sequence[bytes], rounds: int) -> None:
    times = []
    crossings = 0
    for _ in range(rounds):
        made, rules = correlator(kind)
        gc.collect()
        gc.freeze()
        spent, crossings = 0.0, 0
        for number, cases in enumerate(batches(events, Callers())):
            start = time.process_time()
            crossings += fed(made, cases, rules, number * BATCH)
            spent += time.process_time() - start
        times.append(spent)
        gc.unfreeze()
    rate = len(events) / statistics.median(times)
    print(f"{kind:17} {rate:9,.0f} matches/s  {crossings:6} crossings  {memory(kind, events)}")


def memory(kind: str, events: Sequence[bytes]) -> str:
    """Return bytes a live group: as allocated, and as the bound counts them."""
    callers = Callers()
    cases = [Case(decode(line), callers) for line in events]
    for case in cases:
        _ = case.user
    made, rules = correlator(kind)
    fed(made, cases[:1], rules)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    fed(made, cases, rules)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    kept = made.groups(kind)
    count = len(kept) if kept is not None else 0
    start = time.process_time()
    size = len(msgspec.msgpack.encode(made.snapshot()))
    spent = time.process_time() - start
    return (
        f"{count:6} groups of {used / max(count, 1):4.0f} bytes ({made.bytes / max(count, 1):4.0f} as counted);"
        f" checkpoint {size / 1024:5.0f} KiB in {spent * 1e3:.1f} ms"
    )


def whole(kind: str, events: Sequence[bytes], rounds: int) -> float:
    """Return events a second through the engine with a rule that everything matches."""
    times = []
    exception = {"name": "all", "owner": "o", "reason": "r", "match": {"stage": ["ResponseComplete"]}}
    for _ in range(rounds):
        engine = Engine()
        if kind:
            engine.arm(arm("first", rule_spec(**EVERYTHING), {}))
            changed = {"rules": ["first"], "timespan": "10m", "generate": None, "condition": {"gte": 1000}}
            engine.arm(arm("it", correlation_spec(type=kind, **changed), {}))
        else:
            engine.arm(arm("first", rule_spec(**EVERYTHING, suppress={"exceptions": [exception]}), {}))
        spent = 0.0
        for begin in range(0, len(events), BATCH):
            batch = [decode(line) for line in events[begin : begin + BATCH]]
            start = time.process_time()
            for _ in engine.inspect_batch(batch):
                pass
            spent += time.process_time() - start
        times.append(spent)
    return len(events) / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--groups", type=int, default=9_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round over few events: proves that it runs")
    options = parser.parse_args()
    if options.quick:
        options.events, options.groups, options.rounds = 5_000, 500, 1
    gc.set_threshold(50_000, 10, 50)
    events = lines(options.events, options.groups)
    print(f"{len(events):,} matches of {options.groups:,} groups")
    for kind in TYPES:
        measure(kind, events, options.rounds)
    without, with_ = whole("", events, options.rounds), whole("event_count", events, options.rounds)
    print(f"engine, everything matches: {without:,.0f} events/s excepted, {with_:,.0f} counted ({with_ / without:.2f})")


if __name__ == "__main__":
    main()
