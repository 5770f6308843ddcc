"""Page of all deployments."""
