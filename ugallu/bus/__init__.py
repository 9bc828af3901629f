"""Typed fan-out of observations inside the process."""
