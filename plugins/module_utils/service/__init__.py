"""A program of this project that runs on a host for good: kept by systemd, or by a supervisord of its own."""
