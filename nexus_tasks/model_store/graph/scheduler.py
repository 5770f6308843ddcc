"""The split of a graph between devices: ggml_backend_sched_split_graph of ggml-backend.cpp.

    placed = split(graph, Devices(gpu_count=2, copies=1, op_offload=True))

Devices are numbered as the scheduler does: GPUs from 0 on, the host last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .tensors import VIEWS, Graph, Tensor

OFFLOAD_BATCH = 32  # tokens from which on CUDA takes operations whose weights lie in the host's memory


@dataclass(frozen=True)
class Devices:
    """The devices of a graph, and how they are used."""

    gpu_count: int
    copies: int = 1
    """Copies of the inputs: 4 with pipeline parallelism."""
    op_offload: bool = True

    @property
    def host(self) -> int:
        """The host's number."""
        return self.gpu_count


@dataclass
class Placed:
    """A graph as it is allocated: nodes and leafs, each on its device; copies between devices are among them."""

    nodes: list[tuple[Tensor, int]] = field(default_factory=list)
    leafs: list[tuple[Tensor, int]] = field(default_factory=list)


def split(graph: Graph, devices: Devices) -> Placed:
    """Assign devices, and copy what is needed elsewhere."""
    for tensor in (*graph.leafs, *graph.nodes):
        if tensor.backend < 0:
            tensor.backend = _by_location(tensor, devices)
    _expand(graph.nodes, devices.host)
    _expand(reversed(graph.nodes), devices.host)
    _expand(graph.nodes, -1)
    _expand(reversed(graph.nodes), -1)
    _assign_rest(graph.nodes)
    return _with_copies(graph, devices)


def _location(tensor: Tensor) -> int:
    return tensor.view.resident if tensor.view else tensor.resident


def _by_location(tensor: Tensor, devices: Devices) -> int:
    """Pass 1: where the tensor lies, else where its weights do."""
    location = _location(tensor)
    if location >= 0:
        return location
    if tensor.input:
        return devices.host
    if tensor.op in ("rope", "flash_attn"):
        return -1
    for source in tensor.src:
        if source.weights:
            if source.resident == devices.host and devices.gpu_count and devices.op_offload:
                return 0 if _batch(tensor) >= OFFLOAD_BATCH else devices.host
            return source.resident
    return -1


def _batch(tensor: Tensor) -> int:
    """Of ggml-cuda.cu: the tokens of an operation."""
    if tensor.op == "get_rows":
        return 0
    if tensor.op == "mul_mat":
        return tensor.ne[1]
    if tensor.op == "mul_mat_id":
        return tensor.ne[2]
    return tensor.row_count


def _expand(nodes: Iterable[Tensor], ending: int) -> None:
    """Pass 2: give neighbours the same device, up to a node on device ``ending``."""
    current = -1
    for node in nodes:
        if node.op in VIEWS:
            continue
        if node.backend >= 0:
            current = -1 if node.backend == ending else node.backend
        elif current >= 0:
            node.backend = current


def _assign_rest(nodes: list[Tensor]) -> None:
    """Pass 4: sources that have no device yet go where they are used, views where their memory is."""
    for node in nodes:
        if node.view and node.backend < 0:
            node.backend = node.view.backend
        for source in node.src:
            if source.backend < 0:
                source.backend = source.view.backend if source.view else node.backend


@dataclass
class _Split:
    """Nodes that are computed on one device, and what they need from elsewhere."""

    inputs: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)
    """A tensor, and its copies on this device."""
    device: int = -1
    nodes: list[Tensor] = field(default_factory=list)


def _splits(graph: Graph, devices: Devices) -> list[_Split]:
    """Pass 5: a new split with each change of devices, and with each further weight from elsewhere."""
    splits = [_Split()]
    copies: dict[tuple[int, int], list[Tensor]] = {}
    for node in graph.nodes:
        if node.op in VIEWS:
            splits[-1].nodes.append(node)
            continue
        current = splits[-1]
        if current.device < 0:
            current.device = node.backend
        elif node.backend != current.device or (current.inputs and _needs_foreign_weights(node, current.device)):
            current = _Split(device=node.backend)
            splits.append(current)
        current.nodes.append(node)
        for place, source in enumerate(node.src):
            if source.backend == current.device or _held_by(source, current.device):
                continue
            key = id(source), current.device
            if key not in copies:
                copies[key] = [_copy(source, devices.copies > 1) for _ in range(devices.copies)]
                current.inputs.append((source, copies[key]))
            node.src[place] = copies[key][0]
    return splits


def _with_copies(graph: Graph, devices: Devices) -> Placed:
    """The graph that is allocated: copies between devices where their split begins, and all of them as leafs."""
    placed = Placed()
    splits = _splits(graph, devices)
    for one in splits:
        for source, copies in one.inputs:
            dependency = Tensor("none", source.type, source.ne, [source], source.nb)
            dependency.view = source.view or source
            placed.nodes.append((dependency, source.backend))
            placed.nodes.append((copies[0], one.device))
        placed.nodes.extend((node, node.backend) for node in one.nodes)
    if devices.copies > 1:
        placed.leafs.extend(_input_copies(graph.leafs, devices.copies))
        placed.leafs.extend((copy, one.device) for one in splits for _, copies in one.inputs for copy in copies)
    placed.leafs.extend((leaf, leaf.backend) for leaf in graph.leafs)
    return placed


def _needs_foreign_weights(node: Tensor, device: int) -> bool:
    return any(source.weights and source.backend != device for source in node.src)


def _held_by(tensor: Tensor, device: int) -> bool:
    location = _location(tensor)
    return location == device if location >= 0 else (tensor.view or tensor).backend == device


def _copy(source: Tensor, kept: bool) -> Tensor:
    copy = Tensor("none", source.type, source.ne, nb=source.nb)
    copy.input = copy.output = kept
    return copy


def _input_copies(leafs: list[Tensor], count: int) -> list[tuple[Tensor, int]]:
    """With pipeline parallelism each graph input is there several times."""
    placed: list[tuple[Tensor, int]] = []
    for one in leafs:
        if one.input:
            one.output = True
            placed.extend((tensor, one.backend) for tensor in (one, *(_copy(one, True) for _ in range(count - 1))))
    return placed
