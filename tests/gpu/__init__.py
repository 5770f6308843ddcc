"""A check on a machine with a real GPU: ``check.sh`` runs it, ``pack`` prepares what it brings along."""
