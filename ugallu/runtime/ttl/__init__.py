"""Ends what has had its time: archived, read back, then deleted, or kept with a reason on it."""
