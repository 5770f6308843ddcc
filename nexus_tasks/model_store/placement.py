"""The devices of a model's layers and tensors, as load_tensors of llama-model.cpp assigns them.

placement = place(shape, options, [24_000, 16_000])
placement.layer_device(0), placement.tensor_device["token_embd.weight"]
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.gguf import Header, Tensor
from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.hostlib.tensor_types import type_number

from .graph.allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, padded, row_padding
from .server_options import ServerOptions

BLOCK = re.compile(r"blk\.(\d+)\.")
# Tensors outside the layers, by the part of llama.cpp's table (LLM_TENSOR_INFOS) that they are in.
EXPERTS = re.compile(r"_(ch)?exps\.weight$")
INPUTS = frozenset({"token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"})
ON_EVERY_DEVICE = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight")
OF_FIRST_LAYER = re.compile(r"token_embd_norm\.|per_layer_(model_proj|proj_norm)\.")
NORM_OF_OUTPUT = ("lfm2", "lfm2moe")  # their token_embd_norm is the last norm
WITHOUT_HEAD = ("bert", "nomic-bert", "nomic-bert-moe")
# Types that ggml reorders for a processor with AVX2, by eight rows at a time (repack.cpp); others have none or more.
REPACKED_TYPES = frozenset(map(type_number, ("q4_0", "q4_K", "iq4_nl", "mxfp4")))
REPACKED_ROWS = 8
UNUSED = re.compile(r"\.(attn_rot_embd|cross_attn_rel_b)\b|^rope_freqs_unused")


@dataclass(frozen=True)
class Placement:
    """Devices of a model's parts, by number: GPUs from 0 on, the host last."""

    gpu_count: int
    layers: tuple[int, ...]
    """The device of each layer, and of the output at the end."""
    offloaded: int
    """Layers on GPUs, the output counted as one."""
    tensor_devices: dict[str, int]
    duplicates: tuple[tuple[Tensor, int], ...]
    """Tensors that a further device has a copy of."""
    overridden: bool
    repacked: frozenset[str] = frozenset()
    """Tensors that the processor reorders in a buffer of their own (CPU_REPACK), and does not read from the file."""

    @property
    def host(self) -> int:
        """The host's number."""
        return self.gpu_count

    @property
    def full(self) -> bool:
        """True where all layers and the output are on GPUs."""
        return self.offloaded == len(self.layers)

    def nothing(self) -> list[int]:
        """No bytes on any device."""
        return [0] * (self.gpu_count + 1)


def place(shape: ModelShape, options: ServerOptions, free_mib: Sequence[float]) -> Placement:
    """Assign every tensor that llama-server loads.

    Args:
        free_mib: of each GPU that is used; the default split follows it.

    Raises UsageError for an option that can't be.
    """
    layers, offloaded = _layers(shape, options, free_mib)
    patterns = overrides(options, len(free_mib))
    devices = {}
    for name in shape.tensors:
        if not is_loaded(name, shape, options):
            continue
        by_pattern = next((device for pattern, device in patterns if pattern.search(name)), None)
        devices[name] = _device(name, shape, layers, len(free_mib)) if by_pattern is None else by_pattern
    reorders = options.repack and not free_mib
    copies = _duplicates(shape, layers, devices, reorders=reorders)
    repacked = _repacked(shape, devices) if reorders else frozenset()
    return Placement(len(free_mib), layers, offloaded, devices, tuple(copies), bool(patterns), repacked)


def is_loaded(name: str, shape: ModelShape, options: ServerOptions) -> bool:
    """Layers of multi-token prediction are only loaded where they are used."""
    block = BLOCK.match(name)
    beyond = block is not None and int(block[1]) >= shape.n_layer
    return not UNUSED.search(name) and (not beyond or options.loads_mtp)


def _layers(shape: ModelShape, options: ServerOptions, free_mib: Sequence[float]) -> tuple[tuple[int, ...], int]:
    gpus, count = len(free_mib), shape.n_layer_all + 1
    wanted = count if options.n_gpu_layers is None else options.n_gpu_layers
    offloaded = min(wanted, count) if gpus else 0
    first = max(count - wanted, 0)
    ends = _split_ends(options, free_mib)
    layers = []
    for layer in range(count):
        on_gpu = layer >= first and layer - first < offloaded
        share = _float((layer - first) / offloaded) if on_gpu else 0.0
        layers.append(min(bisect.bisect_right(ends, share), gpus - 1) if on_gpu else gpus)
    return tuple(layers), offloaded


def _split_ends(options: ServerOptions, free_mib: Sequence[float]) -> list[float]:
    """The shares of layers at which devices end: of --tensor-split, else of the free memory."""
    shares = list(options.tensor_split)[: len(free_mib)]
    shares += [0.0] * (len(free_mib) - len(shares))
    if not any(shares):
        shares = [value * 1024 * 1024 for value in free_mib]
    total, ends = 0.0, []
    for share in shares:
        total = _float(total + _float(share))
        ends.append(total)
    return [_float(end / total) for end in ends] if total else ends


def _float(value: float) -> float:
    """As a 32-bit number."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def overrides(options: ServerOptions, gpus: int) -> list[tuple[re.Pattern[str], int]]:
    """The patterns of names that go to a device of their own, in llama.cpp's order.

    Raises UsageError for a pattern or a buffer type that there is not.
    """
    by_buffer = {"CPU": gpus, "CUDA_Host": gpus, **{f"CUDA{number}": number for number in range(gpus)}}
    found = []
    for pattern, buffer in options.tensor_overrides:
        if buffer not in by_buffer:
            raise UsageError(
                f"--override-tensor names the buffer type {buffer}", hint=f"there are {', '.join(by_buffer)}"
            )
        try:
            found.append((re.compile(pattern), by_buffer[buffer]))
        except re.error as error:
            raise UsageError(
                f"--override-tensor: {pattern} is no pattern: {error}", hint="see llama-server --help"
            ) from error
    return found


def _device(name: str, shape: ModelShape, layers: tuple[int, ...], host: int) -> int:
    block = BLOCK.match(name)
    if block:
        return layers[int(block[1])] if int(block[1]) < len(layers) else host
    if name in INPUTS:
        return host
    if ON_EVERY_DEVICE.match(name) or (OF_FIRST_LAYER.match(name) and shape.architecture not in NORM_OF_OUTPUT):
        return layers[0]
    return layers[-1]


def _repacked(shape: ModelShape, names: Iterable[str]) -> frozenset[str]:
    """Matrices that the processor reorders where no GPU is used; else llama.cpp prefers memory that the GPU reads."""
    return frozenset(name for name in names if name not in INPUTS and _reorders(shape.tensors[name]))


def _reorders(tensor: Tensor) -> bool:
    """True for a matrix, or the experts of a layer, of a type that is reordered."""
    dimensions = 3 if EXPERTS.search(tensor.name) else 2
    eights = len(tensor.shape) == dimensions and tensor.shape[1] % REPACKED_ROWS == 0
    return eights and tensor.type in REPACKED_TYPES


def _duplicates(
    shape: ModelShape, layers: tuple[int, ...], devices: dict[str, int], *, reorders: bool
) -> list[tuple[Tensor, int]]:
    """A head that is the token embedding is there twice, unless both are read where they are mapped.

    RoPE's factors are on each device with layers.
    """
    copies = []
    embedding = shape.tensors.get("token_embd.weight")
    headless = "output.weight" not in shape.tensors and shape.architecture not in WITHOUT_HEAD
    apart = embedding and (layers[-1] != devices["token_embd.weight"] or (reorders and _reorders(embedding)))
    if embedding and headless and apart:
        copies.append((embedding, layers[-1]))
    for name, device in devices.items():
        if ON_EVERY_DEVICE.match(name):
            others = sorted(set(layers[:-1]) - {device})
            copies.extend((shape.tensors[name], other) for other in others)
    return copies


# ---- Bytes


def weight_bytes(shape: ModelShape, placement: Placement) -> list[int]:
    """Bytes of the weights' buffers by device, the host's last."""
    total = [0] * (placement.gpu_count + 1)
    rows = [(shape.tensors[name], device) for name, device in placement.tensor_devices.items()]
    for tensor, device in (*rows, *placement.duplicates):
        total[device] += buffer_size(tensor, on_gpu=device != placement.host)
    return total


def buffer_size(tensor: Tensor, *, on_gpu: bool) -> int:
    """Bytes that a tensor takes in a buffer of weights."""
    if not on_gpu:
        return padded(tensor.size_bytes, HOST_ALIGNMENT)
    return padded(tensor.size_bytes + row_padding(tensor.type, tensor.shape[0]), GPU_ALIGNMENT)


def mapped_bytes(shape: ModelShape, placement: Placement) -> int:
    """Bytes of the files that are mapped: in each the span from the first to the last tensor that is read there."""
    return sum(_span(header, placement) for header in shape.files)


def repacked_bytes(shape: ModelShape, placement: Placement) -> int:
    """Bytes of the buffer of tensors that the processor reorders."""
    copies = [tensor for tensor, device in placement.duplicates if device == placement.host and _reorders(tensor)]
    tensors = [*(shape.tensors[name] for name in placement.repacked), *copies]
    return sum(buffer_size(tensor, on_gpu=False) for tensor in tensors)


def _span(header: Header, placement: Placement) -> int:
    ends = [
        (tensor.offset, tensor.offset + tensor.size_bytes)
        for tensor in header.tensors
        if placement.tensor_devices.get(tensor.name) == placement.host and tensor.name not in placement.repacked
    ]
    return max(end for _, end in ends) - min(begin for begin, _ in ends) if ends else 0
