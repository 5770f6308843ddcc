"""Run records: typed rows, upgrades of older schemas, the one reader and writer."""
