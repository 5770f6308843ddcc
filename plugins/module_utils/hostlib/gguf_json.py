"""Headers of GGUF files as JSON, from a host that has a model to the controller. Python 3.9's standard library only.

stored = header_as_json(read_header("m.gguf"))
stored["tensors"][0]                ["output.weight", [64, 256], 1, 0]
header_from_json(stored)            the same Header
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .gguf import Header, Tensor


def header_as_json(header: Header) -> dict[str, Any]:
    """A header as JSON has it; of a tensor name, shape, type and offset."""
    tensors = [[tensor.name, list(tensor.shape), tensor.type, tensor.offset] for tensor in header.tensors]
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in header.values.items()}
    return {
        "name": header.name, "size_bytes": header.size_bytes, "data_start": header.data_start, "values": values,
        "tensors": tensors,
    }  # fmt: skip


def header_from_json(stored: Mapping[str, Any]) -> Header:
    """The header that :func:`header_as_json` made this of."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["values"].items()}
    tensors = (Tensor(str(name), tuple(shape), kind, offset) for name, shape, kind, offset in stored["tensors"])
    return Header(stored["name"], stored["size_bytes"], values, tuple(tensors), stored["data_start"])
