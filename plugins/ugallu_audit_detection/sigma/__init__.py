"""Rules: parsed, compiled, matched."""
