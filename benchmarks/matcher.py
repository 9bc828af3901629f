"""From audit line to decision on one core: events a second, and where the time goes.

    python -m benchmarks.matcher [--recording FILE.jsonl.gz] [--rules DIR] [--rounds N] [--pack] [--reference] [--quick]

The recording is the incident of `examples/`. Bars: 120,000 events a second with 300 rules, 150,000 with the default
pack and what it remembers, 50,000 with 3,000 rules, 250,000 with the example rules. Rates are per CPU second, the
median of the rounds; garbage collection is frozen as in the product. The profile splits one round by leaving work out:
decoding alone, plus dispatch, plus the rests that look at fields, plus bodies.
"""

import argparse
import gc
import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.make_rules import make, sigma_stream
from ugallu.sdk import AuditRecord, SigmaRule, decode_strict
from ugallu_audit_detection import pack
from ugallu_audit_detection.context import Context
from ugallu_audit_detection.files import objects
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.expr import Part, leaves
from ugallu_audit_detection.sigma.imported import import_sigma
from ugallu_audit_detection.sigma.match import Matcher

BATCH = 500
EXAMPLES = Path(__file__).parent.parent / "examples"


def native_rules(objects: Sequence[dict[str, Any]]) -> list[CompiledRule]:
    return [
        compile_rule(each["metadata"]["name"], decode_strict(SigmaRule, each, where="rule").spec) for each in objects
    ]


def sigma_rules(text: str) -> list[CompiledRule]:
    return [compile_rule(name, spec) for name, spec in import_sigma(text, where="rules")]


def rules_in(folder: Path) -> list[CompiledRule]:
    return [compile_rule(rule.metadata.name, rule.spec) for rule in objects([folder]) if rule.spec.enabled]


def rate(work: Callable[[], object], events: int, rounds: int) -> float:
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return events / statistics.median(times)


def without(rules: Sequence[CompiledRule], part: Part) -> list[CompiledRule]:
    """Return the rules that look nowhere dearer than `part`."""
    return [rule for rule in rules if all(leaf.part <= part for leaf in leaves(rule.expr))]


def measure(title: str, rules: Sequence[CompiledRule], lines: Sequence[bytes], rounds: int) -> float:
    decode = msgspec.json.Decoder(AuditRecord).decode

    def matching(chosen: Sequence[CompiledRule]) -> Callable[[], int]:
        match = Matcher(chosen).match
        return lambda: sum(len(match(decode(line))) for line in lines)

    def decoding() -> None:
        for line in lines:
            decode(line)

    def remembering() -> Callable[[], int]:
        context = Context()
        context.ask(asking)
        match = Matcher(rules, context=context).match_batch
        batches = [lines[i : i + BATCH] for i in range(0, len(lines), BATCH)]
        return lambda: sum(len(hits) for batch in batches for _, hits in match([decode(line) for line in batch]))

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 50)
    count = len(lines)
    asking = [rule for rule in rules if rule.asks]
    whole = rate(matching(rules), count, rounds)
    steps = [
        ("decode the line", rate(decoding, count, rounds)),
        ("dispatch", rate(matching(without(rules, Part.KEY)), count, rounds)),
        ("user, name, URI, status, annotations", rate(matching(without(rules, Part.SOURCES)), count, rounds)),
        ("bodies", whole),
    ]
    matcher = Matcher(rules)
    records = [decode(line) for line in lines]
    asked = [len(matcher.candidates(record)) for record in records]
    hits = sum(len(matcher.match(record)) for record in records)
    print(f"\n{title}: {whole:,.0f} events/s, {len(rules)} rules, {hits} hits in {count} events")
    print(f"  rules asked per event: {statistics.mean(asked):.2f} in the mean, {max(asked)} at most")
    if asking:
        speed = rate(remembering(), count, rounds)
        print(f"  with what {len(asking)} rules ask of earlier events: {speed:,.0f} events/s")
    before = 0.0
    for name, speed in steps:
        spent = 1e6 / speed
        print(f"  {name:38} {max(spent - before, 0):6.2f} us   {max(spent - before, 0) * whole / 1e6:5.0%}")
        before = spent
    return whole


def reference(objects: Sequence[dict[str, Any]], lines: Sequence[bytes]) -> None:
    from ugallu.testing.rules_reference import native_matches

    some = lines[: len(lines) // 100]
    start = time.process_time()
    hits = sum(native_matches(each["spec"]["match"], json.loads(line)) for line in some for each in objects)
    spent = time.process_time() - start
    print(f"\nreference interpreter: {len(some) / spent:,.0f} events/s ({hits} hits in {len(some)} events)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recording", type=Path, default=EXAMPLES / "audit.jsonl.gz")
    parser.add_argument("--rules", type=Path, default=EXAMPLES / "rules", help="folder of the example rules")
    parser.add_argument("--pack", action="store_true", help="the default pack alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference", action="store_true", help="also time the reference interpreter of the tests")
    parser.add_argument("--quick", action="store_true", help="one round over a tenth: proves that it runs")
    options = parser.parse_args()
    lines = gzip.decompress(options.recording.read_bytes()).splitlines()
    if options.quick:
        lines, options.rounds = lines[: len(lines) // 10], 1
    print(f"{len(lines)} lines of {statistics.mean(map(len, lines)):,.0f} bytes in the mean")
    measure("the default pack", rules_in(pack.FOLDER), lines, options.rounds)
    if options.pack:
        return
    native, sigma = make(300)
    start = time.process_time()
    native_compiled = native_rules(native)
    middle = time.process_time()
    sigma_compiled = sigma_rules(sigma_stream(sigma))
    end = time.process_time()
    Matcher(native_compiled)
    built = time.process_time() - end
    print(
        f"300 rules read and compiled: native {middle - start:.2f} s, Sigma {end - middle:.2f} s;"
        f" matcher built in {built * 1e3:.1f} ms"
    )
    measure("300 native rules", native_compiled, lines, options.rounds)
    measure("the same 300 as Sigma", sigma_compiled, lines, options.rounds)
    measure("3,000 native rules", native_rules(make(3000)[0]), lines, options.rounds)
    if options.rules.is_dir():
        measure("the example rules", rules_in(options.rules), lines, options.rounds)
    if options.reference:
        reference(native, lines)


if __name__ == "__main__":
    main()
