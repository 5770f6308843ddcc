"""A real CUDA toolkit for machines that have none, with or without a GPU: compiling needs neither."""

from tests.cuda.toolkit import TOOLKIT, make

__all__ = ["TOOLKIT", "make"]
