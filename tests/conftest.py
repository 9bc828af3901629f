"""What holds for every test: invented inputs are the same ones each time, so a red suite is red for whoever runs it.

`UGALLU_SEARCH=1 pytest ...` looks for new ones instead; what it finds becomes a test of its own.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("steady"), derandomize=False)
settings.load_profile("search" if os.environ.get("UGALLU_SEARCH") else "steady")  # noqa: TID251 - a switch of the tests
