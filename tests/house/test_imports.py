"""What is not enabled costs nothing, and what is enabled stays within its budget.

Module counts are exact and the same on every machine; memory is compared with a bare interpreter that holds asyncio.
"""

import subprocess
import sys

import msgspec
import pytest

HEAVY = (
    "aiobotocore",
    "aiohttp",
    "cryptography",
    "grpclib",
    "kubernetes_asyncio",
    "re2",
    "sigma",
    "sigstore",
    "sqlite3",
    "yaml",
    "zstandard",
)


class Cost(msgspec.Struct):
    """What a process holds after a snippet ran."""

    modules: list[str]
    resident: int
    """KiB."""

    def packages(self) -> set[str]:
        return {name.partition(".")[0] for name in self.modules}


def cost(snippet: str) -> Cost:
    code = (
        f"{snippet}\n"
        "import json, sys\n"
        "kib = [int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS:')][0]\n"
        "print(json.dumps({'modules': sorted(sys.modules), 'resident': kib}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)


def load(*names: str) -> str:
    """A snippet that imports what a process with these operators imports before it starts."""
    return (
        "import ugallu.supervisor.assembly as a\n"
        "from ugallu.settings import Settings\n"
        "import ugallu.cluster.embedded.cluster, ugallu.journal.segmented\n"
        f"a.load(Settings(enable={names!r}), embedded=True)"
    )


def test_help_and_version_import_nothing_heavy() -> None:
    """`ugallu --help` knows its commands from metadata."""
    snippet = "import ugallu.cli.main as m\ntry:\n    m.main(['--help'])\nexcept SystemExit:\n    pass"
    spent = cost(snippet)
    assert spent.packages() & set(HEAVY) == set()
    assert not [name for name in spent.modules if name.startswith(("ugallu.supervisor", "ugallu.runtime"))]
    assert not [name for name in spent.modules if name.endswith(".operator")]


@pytest.mark.parametrize(
    ("enabled", "absent"),
    [("attestor", "ugallu_audit_detection"), ("audit-detection", "ugallu.runtime.attestor.operator")],
)
def test_a_disabled_operator_is_a_line_of_metadata(enabled: str, absent: str) -> None:
    """Its module is never imported, nor anything that only it needs."""
    assert absent not in cost(load(enabled)).modules


def test_the_house_itself_imports_no_operators_libraries() -> None:
    """Supervisor, cluster, journal, bus and emitter stand on the base alone."""
    spent = cost("import ugallu.supervisor.assembly, ugallu.cluster.embedded.cluster, ugallu.journal.segmented")
    allowed = {"sqlite3"}
    assert spent.packages() & set(HEAVY) - allowed == set()


@pytest.mark.parametrize(
    ("enabled", "modules", "times"),
    [
        # 507, 503 and 538 modules when written, at 2.07, 2.04 and 2.11 times bare asyncio; some air above. The
        # attestor took in certificates, timestamps and its stages since: 569 modules, all its own.
        (("audit-detection",), 620, 2.4),
        (("attestor",), 600, 2.4),
        (("attestor", "audit-detection"), 640, 2.5),
        (("ttl",), 640, 2.5),
        (("backpressure",), 560, 2.4),
    ],
)
def test_a_role_stays_within_its_import_budget(enabled: tuple[str, ...], modules: int, times: float) -> None:
    """A new import that doubles a role is seen here, not on a user's node."""
    bare = cost("import asyncio, asyncio.base_events")
    spent = cost(load(*enabled))
    assert len(spent.modules) <= modules
    assert spent.resident <= times * bare.resident
    assert spent.packages() & {"aiohttp", "aiobotocore", "kubernetes_asyncio", "sigma", "sigstore"} == set()
