"""Page that holds runs against one another."""
