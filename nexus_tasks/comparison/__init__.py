"""Comparison of runs: which may be compared, verdicts about them, and a simulation of how often those are right."""
