"""Page about the usage of the fleet's gateways."""
