"""A run from its plan to its record: presets, sweeps, the HTTP engine and llama-bench."""
