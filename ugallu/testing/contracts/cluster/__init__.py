"""The battery for `Cluster`: what every implementation must do, whether it is embedded or a real API server.

A subclass in `tests/` provides a `cluster` fixture and says what its cluster can do. The tests share the cluster with
others, so they use names of their own, wait by watching, with a bound, and take resourceVersions for opaque.
"""

from ugallu.testing.contracts.cluster.applying import Applying
from ugallu.testing.contracts.cluster.creating import Creating
from ugallu.testing.contracts.cluster.deleting import Deleting
from ugallu.testing.contracts.cluster.listing import Listing
from ugallu.testing.contracts.cluster.objects import SlimRule, collect, replayed, rule, told, unique
from ugallu.testing.contracts.cluster.patching import Patching
from ugallu.testing.contracts.cluster.watching import Watching

__all__ = ["ClusterContract", "SlimRule", "collect", "replayed", "rule", "told", "unique"]


class ClusterContract(Creating, Patching, Applying, Deleting, Listing, Watching):
    """Every sentence of the port's docstring as a test."""
