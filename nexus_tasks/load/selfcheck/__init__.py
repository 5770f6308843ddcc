"""Measurements of the load generator itself: its error and its cost, against a server with a known schedule."""
