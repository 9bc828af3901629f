"""The same rules over the same incident, here and in rsigma: matches that must be equal, and events a CPU second.

    python -m benchmarks.rsigma [--rules N] [--events N] [--rounds N] [--program FILE]

Each contender is a process of its own that reads lines on stdin and writes a line of JSON for each match; the kernel
counts its CPU time, user and system, and what it takes to start and to load the rules (measured on one line) is left
out. Every rule must match equally often everywhere: else the figures are of different work, and the exit status is 1.
The bar is four times the events of rsigma with 300 rules. Without rsigma the exit status is 3, and what installs it is
printed.
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.lines import write
from benchmarks.make_rules import make, sigma_stream
from benchmarks.matcher import BATCH, native_rules, sigma_rules
from ugallu.sdk import AuditRecord
from ugallu_audit_detection.sigma.match import Matcher

VERSION = "0.23.0"
MISSING = 3
ROOT = Path("~/.cache/ugallu-rig").expanduser() / f"rsigma-{VERSION}"
INSTALL = f"cargo install --locked rsigma --version {VERSION} --root {ROOT}"


def match(rules: Path) -> None:
    """Read audit lines on stdin, write the matches: the contender of this house."""
    text = rules.read_text()
    compiled = native_rules(json.loads(text)) if rules.suffix == ".json" else sigma_rules(text)
    matcher = Matcher(compiled)
    decode = msgspec.json.Decoder(AuditRecord).decode
    encode = msgspec.json.Encoder().encode
    lines, out = sys.stdin.buffer, sys.stdout.buffer
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 50)
    while batch := [decode(line) for line in itertools.islice(lines, BATCH)]:
        for index, hits in matcher.match_batch(batch):
            for rule in hits:
                told = {"rule": rule.name, "level": rule.spec.emit.severity, "audit_id": batch[index].audit_id}
                out.write(encode(told) + b"\n")


def run(command: list[str], events: Path, out: Path) -> float:
    """Return the CPU seconds of a process that reads the events and writes its matches."""
    with events.open("rb") as stdin, out.open("wb") as stdout:
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def matches(out: Path) -> Counter[int]:
    """Return how often each rule matched, by its number."""
    told = (json.loads(line) for line in out.open("rb"))
    return Counter(int(str(one.get("rule_id") or one["rule"])[-4:]) for one in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rules", type=int, default=300)
    parser.add_argument("--events", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", type=Path, default=ROOT / "bin" / "rsigma")
    parser.add_argument("--match", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.match:
        match(options.match)
        return 0
    if not options.program.exists():
        print(f"no rsigma: run `{INSTALL}`")
        return MISSING
    said = subprocess.run([options.program, "--version"], capture_output=True, text=True, check=True)
    theirs = said.stdout.splitlines()[0]
    with TemporaryDirectory() as work:
        here = Path(work)
        native, sigma = make(options.rules)
        (here / "native.json").write_text(json.dumps(native))
        (here / "sigma.yml").write_text(sigma_stream(sigma))
        ours = [sys.executable, "-m", "benchmarks.rsigma", "--match"]
        evaluate = ["engine", "eval", "--input-format", "json", "--output-format", "ndjson", "--rules"]
        contenders = {
            "native": [*ours, str(here / "native.json")],
            "Sigma": [*ours, str(here / "sigma.yml")],
            theirs: [str(options.program), *evaluate, str(here / "sigma.yml")],
        }
        one, events = write(here / "one.jsonl", 1), write(here / "events.jsonl", options.events)
        starts: dict[str, list[float]] = {}
        spent: dict[str, list[float]] = {}
        found: dict[str, Counter[int]] = {}
        # In turn, so that what slows the machine down slows all of them.
        for name, command in list(contenders.items()) * options.rounds:
            starts.setdefault(name, []).append(run(command, one, here / "matches"))
            spent.setdefault(name, []).append(run(command, events, here / "matches"))
            found[name] = matches(here / "matches")
    # The clock ticks in hundredths of a second: of few events nothing may be left.
    rates = {
        name: (options.events - 1) / max(statistics.median(spent[name]) - statistics.median(starts[name]), 0.01)
        for name in contenders
    }
    print(f"{options.rules} rules, {options.events:,} events, {found[theirs].total():,} matches")
    for name, rate in rates.items():
        print(f"  {name:14} {rate:9,.0f} events a CPU second, {rate / rates[theirs]:.1f} times those of {theirs}")
    different = [number for number in range(options.rules) if len({some[number] for some in found.values()}) > 1]
    for number in different:
        counts = ", ".join(f"{some[number]} ({name})" for name, some in found.items())
        print(f"rule {number} matches differently: {counts}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
