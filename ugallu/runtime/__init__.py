"""The singletons, each an operator of its own."""
