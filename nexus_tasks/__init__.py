"""Task modules of Llama Nexus: one module a verb or noun, each runnable as ``python -m nexus_tasks.<module>``."""
