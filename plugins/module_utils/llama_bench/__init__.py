"""llama.cpp's own measuring tools, run on a host."""
