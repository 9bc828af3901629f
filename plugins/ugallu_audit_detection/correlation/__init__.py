"""Correlations: rules over the matches of other rules, by event time and within bounds."""
