"""A live view of a fleet: what its servers and GPUs do now, as rows and as a table."""
