"""The durable log between what is acknowledged and what is emitted."""
