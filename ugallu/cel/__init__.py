"""One door to the CEL engine: compile, and evaluate within a budget."""
