"""The sampler of machines and GPUs; role ``telemetry`` copies it to hosts, so it imports nothing of ours."""
