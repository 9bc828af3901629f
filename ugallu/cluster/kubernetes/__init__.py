"""A real API server behind the `Cluster` port."""
