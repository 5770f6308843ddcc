"""What answers at an address: identity, limits, slots and metrics."""
