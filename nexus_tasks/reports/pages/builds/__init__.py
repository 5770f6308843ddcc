"""Page of the releases and builds of llama.cpp."""
