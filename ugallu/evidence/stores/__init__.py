"""Evidence stores: where the bytes stay."""
