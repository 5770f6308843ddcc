"""Batches: many prompts, put to the servers of a fleet, of which none is lost."""
