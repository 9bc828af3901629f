"""What holds for every test: invented inputs are the same ones each time, so a red suite is red for whoever runs it.

`UGALLU_SEARCH=1 pytest ...` looks for new ones instead; what it finds becomes a test of its own.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("steady"), derandomize=False)
settings.load_profile("search" if os.environ.get("UGALLU_SEARCH") else "steady")  # noqa: TID251 - a switch of the tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that share a costly start share a worker of `pytest -n`: all on the real node, else those of a file."""
    for item in items:
        shared = "node" if "node" in getattr(item, "fixturenames", ()) else item.path.stem
        if item.get_closest_marker("real") or item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.xdist_group(shared))
