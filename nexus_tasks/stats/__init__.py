"""From points to figures: summaries, and confidence intervals by bootstrap."""
