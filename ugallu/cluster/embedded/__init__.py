"""The embedded cluster: a SQLite file that behaves as an API server does."""
