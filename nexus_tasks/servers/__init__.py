"""Servers that answer at an address: identity, limits, slots and metrics."""
