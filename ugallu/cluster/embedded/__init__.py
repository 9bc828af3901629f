"""A cluster's state in this process: the rules of a Kubernetes API server over SQLite."""

from ugallu.cluster.embedded.cluster import EmbeddedCluster

__all__ = ["EmbeddedCluster"]
