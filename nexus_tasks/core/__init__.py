"""What every room may use: errors, and where a measurement comes from."""
