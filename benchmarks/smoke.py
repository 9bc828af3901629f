"""Every benchmark, small: it runs and its books close. The figures are no verdict: machines in CI are shared."""

import sys
import tempfile
from pathlib import Path

from benchmarks.lines import EXAMPLES, write
from benchmarks.replay import measure


def main() -> int:
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
