"""`ugallu replay` over a long log: time, peak memory, and whether the books close.

    python -m benchmarks.replay [--lines 1000000] [--rules DIR] [--seal] [--work DIR] [--json]

One line of figures a run; exit status 1 when the books do not close. The log (2.1 kB a line) is made once in --work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lines import EXAMPLES, write


def measure(log: Path, rules: Path, *, seal: bool) -> dict[str, Any]:
    """Replay once in a process of its own and return its figures."""
    with tempfile.TemporaryDirectory() as state, tempfile.TemporaryFile() as books:
        command = [
            sys.executable,
            "-m",
            "ugallu",
            "replay",
            str(log),
            "--rules",
            str(rules),
            "--state",
            state,
            "--json",
        ]
        begin = time.perf_counter()
        # Findings go nowhere: their number is in the books. The child's own usage is what wait4 returns.
        child = subprocess.Popen(command + ([] if seal else ["--no-seal"]), stdout=subprocess.DEVNULL, stderr=books)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        books.seek(0)
        told = books.read().decode()
    if status != 0:
        sys.exit(f"replay ended with status {os.waitstatus_to_exitcode(status)}:\n{told}")
    ledger = json.loads(told.splitlines()[-1])
    return {
        "lines": ledger["received"],
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "lines_per_cpu_s": round(ledger["received"] / (usage.ru_utime + usage.ru_stime)),
        "closed": closes(ledger, seal=seal),
        "ledger": ledger,
    }


def closes(ledger: dict[str, Any], *, seal: bool) -> bool:
    """Tell whether every line and every match is somewhere."""
    lines = ledger["received"] == ledger["parsed"] + ledger["rejected"] + ledger["duplicate"]
    matches = ledger["matched"] == ledger["emitted"] + ledger["folded"] + sum(ledger["dropped"].values())
    sealed = not seal or ledger["sealed"] == ledger["emitted"] + ledger["summaries"]
    return bool(lines and matches and sealed and ledger["pending"] == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rules", type=Path, default=EXAMPLES / "rules")
    parser.add_argument("--seal", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    log = write(args.work / f"ugallu-{args.lines}.jsonl", args.lines)
    figures = measure(log, args.rules, seal=args.seal)
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<16}{value}")
    return 0 if figures["closed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
