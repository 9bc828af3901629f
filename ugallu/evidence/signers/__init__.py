"""Signers: who puts a name under a statement."""
