"""NVIDIA's software: decisions about drivers and toolkits, packages, and what a host has."""
