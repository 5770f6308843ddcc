"""Views of records: names, verdicts and levels of load for readers, and flat tables for other programs."""
