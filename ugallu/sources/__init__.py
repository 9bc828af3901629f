"""Sources that several operators share."""
