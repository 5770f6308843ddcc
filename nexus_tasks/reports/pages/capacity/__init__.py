"""Page of the fleet's memory: as it was planned, and as deployments measured it."""
