"""The proof that a running server is what was declared, one file a kind of checks (prove.py has their order)."""
