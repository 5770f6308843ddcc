"""Models: the tiny one that is written here."""
