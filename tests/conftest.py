"""What every test gets: a directory of its own, no task left behind, warnings as errors (pyproject)."""
