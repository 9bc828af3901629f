"""A process at rest, and how soon it is there: `python -m benchmarks.rest [--runs N] [--rig]`.

With `--rig` on a real API server that tests/rig starts, each role with its ServiceAccount's rights; the server's audit
log then tells the requests a second at rest, Leases apart (the bar: 1).

Resident memory five seconds after it is ready, from the command to ready, and the time of `--help`; each the median of
some runs, in processes of their own. The bars: 60 MiB, 1 s, 150 ms.
"""

import argparse
import datetime as dt
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lines import EXAMPLES

ROLES = ("audit-detection", "attestor", "attestor,audit-detection")
ON_A_SERVER = ("audit-detection", "attestor", "backpressure", "ttl")
SETTLE_SECONDS = 5.0


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} is gone")


def cpu(pid: int) -> float:
    """CPU seconds so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def address(stderr: Path) -> str:
    """Return where the probes listen, or nothing yet."""
    for line in stderr.read_bytes().splitlines():
        if line.startswith(b"{") and b'"listening"' in line:
            return str(json.loads(line)["health"])
    return ""


def is_ready(stderr: Path) -> bool:
    where = address(stderr)
    if not where:
        return False
    connection = http.client.HTTPConnection(where, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def rest(role: str, settle: float = SETTLE_SECONDS, *, where: tuple[str, ...] = ()) -> tuple[float, float, float]:
    """Return MiB at rest, seconds to ready, and CPU seconds to ready, with this role and an empty log.

    `where`: flags that name a Kubernetes cluster, which has its rules.
    """
    with tempfile.TemporaryDirectory() as work:
        log, stderr = Path(work) / "audit.log", Path(work) / "stderr"
        log.touch()
        command = [
            *(sys.executable, "-m", "ugallu", "run", "--enable", role, "--state", f"{work}/state"),
            *("--audit-log", str(log), "--rules", str(EXAMPLES / "rules")),
            *("--health", "127.0.0.1:0", "--metrics", "", "--log-format", "json"),
        ]
        command += where
        if "audit-detection" not in role or where:
            del command[command.index("--rules") : command.index("--rules") + 2]
        begin = time.monotonic()
        with stderr.open("wb") as out, subprocess.Popen(command, stderr=out) as process:
            while not is_ready(stderr):
                if process.poll() is not None or time.monotonic() - begin > 30:
                    process.kill()
                    raise SystemExit(stderr.read_text())
                time.sleep(0.005)  # noqa: TID251 - another process's time
            ready = time.monotonic() - begin
            spent = cpu(process.pid)
            time.sleep(settle)  # noqa: TID251 - another process's time
            size = resident(process.pid)
            process.send_signal(signal.SIGTERM)
        return size, ready, spent


def help_seconds() -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "ugallu", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def on_a_server(runs: int) -> None:
    """Each role that a ServiceAccount of its own has, on one API server."""
    import yaml

    from tests.rig.cluster import ROOT, ApiServer, Options

    settle = 20.0
    with tempfile.TemporaryDirectory() as work:
        policy = Path(work) / "policy.yaml"
        rules = [{"level": "Metadata"}]
        policy.write_text(
            yaml.safe_dump(
                {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
            )
        )
        with ApiServer(Options(audit_policy=policy)) as api:
            api.serve_kinds()
            there = Path(os.path.relpath(ROOT / "manifests", work))
            overlay, ttl = str(there / "overlays" / "standard"), str(there / "components" / "ttl")
            (Path(work) / "kustomization.yaml").write_text(
                yaml.safe_dump({"resources": [overlay], "components": [ttl]})
            )
            api.kubectl("apply", "--server-side", "--force-conflicts", "-k", work)
            api.kubectl("apply", "--server-side", "-f", str(EXAMPLES / "rules"))
            for role in ON_A_SERVER:
                # As a Pod has it: token, CA and namespace in a folder.
                account = Path(work) / role
                account.mkdir()
                (account / "token").write_text(api.token("ugallu-system", f"ugallu-{role}"))
                (account / "ca.crt").write_bytes(api.ca.read_bytes())
                (account / "namespace").write_text("ugallu-system")
                server = api.url.removeprefix("https://")
                where = ("--kubernetes-server", server, "--kubernetes-account", str(account), "--evidence", "local")
                found = [rest(role, settle, where=where) for _ in range(runs)]
                size, ready, spent = (statistics.median(values) for values in zip(*found, strict=True))
                rate = requests_at_rest(api.audit(), f"system:serviceaccount:ugallu-system:ugallu-{role}", settle)
                print(
                    f"{role:<28}{size:6.1f} MiB at rest (bar 60)   {ready:5.2f} s to ready, {spent:.2f} s of a core   "
                    f"{rate:.2f} requests/s at rest (bar 1)"
                )


def requests_at_rest(events: list[dict[str, Any]], user: str, settle: float) -> float:
    """Return the requests a second of the last run's last seconds, Leases apart."""
    times = [
        dt.datetime.fromisoformat(event["requestReceivedTimestamp"])
        for event in events
        if event["user"].get("username") == user and event.get("objectRef", {}).get("resource") != "leases"
    ]
    last = max(dt.datetime.fromisoformat(event["stageTimestamp"]) for event in events)
    return sum(1 for moment in times if (last - moment).total_seconds() < settle - 2) / (settle - 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rig", action="store_true", help="on a real API server")
    chosen = parser.parse_args()
    if chosen.rig:
        on_a_server(chosen.runs)
        return
    runs = chosen.runs
    for role in ROLES:
        found = [rest(role) for _ in range(runs)]
        size, ready, spent = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"{role:<28}{size:6.1f} MiB at rest (bar 60)   {ready:5.2f} s to ready (bar 1), {spent:.2f} s of a core")
    print(f"{'--help':<28}{statistics.median(help_seconds() for _ in range(runs * 2)) * 1000:6.0f} ms (bar 150)")


if __name__ == "__main__":
    main()
