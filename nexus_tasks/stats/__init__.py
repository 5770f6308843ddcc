"""From points to figures: summaries and bootstrap intervals."""
