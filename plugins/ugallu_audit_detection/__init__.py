"""Audit log through rules to findings: native SigmaRules and upstream Sigma in one matcher."""
