"""Accounting: who used what, of the logs of the fleet's gateways."""
