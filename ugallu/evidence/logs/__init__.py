"""Transparency logs: where it is public that a statement was made."""
