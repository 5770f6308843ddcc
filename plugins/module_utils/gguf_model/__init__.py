"""Role gguf_model's work on a host: a model file, where it comes from, and how it is verified."""
