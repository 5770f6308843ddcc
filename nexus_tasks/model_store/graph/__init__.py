"""The memory that llama.cpp's graphs take: recorded op by op, split between devices and placed as ggml does."""
