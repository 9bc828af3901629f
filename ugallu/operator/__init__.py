"""What an operator is, and what it may use."""
