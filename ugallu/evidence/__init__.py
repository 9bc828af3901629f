"""Sealing: from a statement to a bundle that stock tools verify. Knows nothing of Kubernetes."""
