"""The ground floor, which every room may use: errors, and the provenance of a measurement."""
