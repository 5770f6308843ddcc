"""Page of a benchmark run."""
