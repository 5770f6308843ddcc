"""Page of a batch."""
