"""The gateway on its host: HAProxy asked and told while it runs."""
