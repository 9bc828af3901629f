"""What a cluster under test can do beyond the port."""

from typing import ClassVar

from ugallu.cluster.port import Cluster


class Abilities:
    """Flags and hooks that a subclass in `tests/` sets for its cluster."""

    collects_garbage: ClassVar[bool] = True
    """Dependents of a deleted owner go (a bare API server has no controller for it)."""
    bookmark_within: ClassVar[float] = 0.0
    """Seconds within which a quiet watch gets a bookmark; 0: longer than a test should take."""

    async def forget_history(self, cluster: Cluster) -> bool:  # noqa: ARG002 - for subclasses
        """Make the cluster forget what was before now; False: it cannot be made to."""
        return False
