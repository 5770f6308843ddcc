"""llama.cpp from its source to a release: recipe, package index, build."""
