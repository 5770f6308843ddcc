"""Verification (*proof*) that a running server is as declared, one file a kind of checks (prove.py: their order)."""
