"""The ground floor, which every room may use: errors, numbers as text, and provenance."""
