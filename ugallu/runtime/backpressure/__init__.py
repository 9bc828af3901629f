"""Measures how hard the cluster's store is pressed, and says it to every emitter."""
