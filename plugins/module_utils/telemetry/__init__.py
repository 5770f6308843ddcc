"""Role telemetry's exporter on a host: what runs it, and whether it is as declared."""
