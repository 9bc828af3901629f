"""HTTP and gRPC as the rest of the house sees them."""
