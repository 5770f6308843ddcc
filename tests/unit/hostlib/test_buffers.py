"""Buffers of llama-server by name."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.buffers import is_host


@pytest.mark.parametrize(
    ("device", "expected"),
    [("CPU", True), ("CPU_Mapped", True), ("CPU_REPACK", True), ("CUDA_Host", True), ("CUDA0", False), ("Host", False)],
)
def test_mapped_and_pinned_memory_is_the_hosts(device: str, expected: bool) -> None:
    assert is_host(device) is expected
