"""Buffers of llama-server as its log names them: CPU, CPU_Mapped, CUDA_Host, CUDA0."""

from __future__ import annotations


def is_host(device: str) -> bool:
    """True for the name of a buffer in the host's memory: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host."""
    return device.startswith("CPU") or device.endswith("_Host")
