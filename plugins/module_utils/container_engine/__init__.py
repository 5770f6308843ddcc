"""Docker and NVIDIA's Container Toolkit: decisions, and what a host has."""
