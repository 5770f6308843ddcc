"""Tensors of a model's input, which llama.cpp keeps on the processor whatever is offloaded."""

from __future__ import annotations

from ...hostlib.gguf import GgufError, read_header
from ..errors import HostError
from ..gpus import MIB

INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd", "altup", "conv1d")


def input_mib(path: str) -> float:
    """MiB from the first to the last input tensor of a GGUF file: what llama.cpp maps for the processor at most.

    Raises HostError where it has no header that llama.cpp reads, and OSError.
    """
    try:
        header = read_header(path)
    except GgufError as error:
        raise HostError(str(error)) from error
    offsets = [*sorted(tensor.offset for tensor in header.tensors), header.size_bytes - header.data_start]
    ends = dict(zip(offsets, offsets[1:]))
    spans = [(tensor.offset, ends[tensor.offset]) for tensor in header.tensors if tensor.name.startswith(INPUT_TENSORS)]
    return (max(stop for _, stop in spans) - min(start for start, _ in spans)) / MIB if spans else 0.0
