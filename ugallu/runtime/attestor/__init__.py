"""Seals what happened: event to attestation bundle to evidence."""
