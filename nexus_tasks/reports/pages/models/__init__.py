"""Page that shows models side by side."""
