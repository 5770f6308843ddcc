"""Page of a target over time."""
