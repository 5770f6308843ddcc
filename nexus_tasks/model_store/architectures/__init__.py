"""The architectures whose memory is known: which caches and which graph each has."""
