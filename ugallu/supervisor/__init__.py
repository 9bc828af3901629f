"""Loads the enabled operators and runs their parts."""
