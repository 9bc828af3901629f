"""Every benchmark, small: it runs and its books close. The figures are no verdict: machines in CI are shared."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.lines import EXAMPLES, write
from benchmarks.replay import measure
from benchmarks.rsigma import MISSING

SMALL = {
    # The arguments that make each one short.
    "audit_source": (),
    "bus": ("--events", "2000"),
    "cache": ("--pods", "200", "--changes", "500"),
    "correlation": ("--quick",),
    "emit": ("500",),
    "journal": (),
    "matcher": ("--quick",),
    "rest": ("--runs", "1"),
    "rsigma": ("--events", "2000", "--rounds", "1"),
    "seal": ("100",),
    "webhook": ("--seconds", "2", "--rate", "1000"),
}
APART = {"__init__", "lines", "make_rules", "pods", "replay", "smoke"}
"""What is no benchmark, and the one that is called below."""


def main() -> int:
    here = Path(__file__).parent
    found = {path.stem for path in here.glob("*.py")} - APART
    if found != set(SMALL):
        print(f"not in the smoke, or gone: {sorted(found ^ set(SMALL))}")
        return 1
    for name, arguments in SMALL.items():
        print(f"{name}:", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=here.parent, check=False)
        if done.returncode and not (name == "rsigma" and done.returncode == MISSING):
            return done.returncode
    with tempfile.TemporaryDirectory() as work:
        log = write(Path(work) / "smoke.jsonl", 20_000)
        for seal in (False, True):
            figures = measure(log, EXAMPLES / "rules", seal=seal)
            print(f"replay, {'sealed' if seal else 'not sealed'}: {figures}")
            if not figures["closed"]:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
