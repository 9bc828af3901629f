"""The one port to a cluster's state, its implementations, and what is built on it."""
