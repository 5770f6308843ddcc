"""The split of graphs between devices; whole models are held against llama.cpp's in test_memory.py."""

from __future__ import annotations

from nexus_tasks.model_store.graph import tensors as t
from nexus_tasks.model_store.graph.scheduler import Devices, Placed, split
from nexus_tasks.model_store.graph.tensors import F32, Graph, Tensor


def weight(device: int, *ne: int) -> Tensor:
    made = t.leaf(F32, *ne)
    made.resident, made.weights = device, True
    return made


def placed(last: Tensor, devices: Devices) -> Placed:
    graph = Graph()
    graph.expand(last)
    return split(graph, devices)


def computed(found: Placed) -> list[tuple[str, int]]:
    return [(node.op, device) for node, device in found.nodes if node.op != "none"]


def test_operations_are_where_their_weights_are_and_others_beside_them() -> None:
    x = t.graph_input(F32, 8, 4)
    last = t.mul_mat(weight(1, 8, 8), t.unary(t.mul_mat(weight(0, 8, 8), x)))
    assert computed(placed(last, Devices(2))) == [("mul_mat", 0), ("unary", 0), ("mul_mat", 1)]


def test_what_comes_from_elsewhere_is_copied_where_a_split_begins() -> None:
    x = t.graph_input(F32, 8, 4)
    found = placed(t.mul_mat(weight(0, 8, 8), x), Devices(1))
    assert [(node.op, device) for node, device in found.nodes] == [("none", 1), ("none", 0), ("mul_mat", 0)]


def test_large_batches_take_weights_of_the_host_to_the_gpu_unless_told_otherwise() -> None:
    def device(tokens: int, *, offload: bool = True) -> int:
        last = t.mul_mat(weight(1, 8, 8), t.graph_input(F32, 8, tokens))
        return computed(placed(last, Devices(1, op_offload=offload)))[0][1]

    assert (device(32), device(31), device(32, offload=False)) == (0, 1, 1)


def test_each_further_weight_of_the_host_begins_a_split_so_that_the_last_is_freed() -> None:
    x = t.graph_input(F32, 8, 64)
    last = t.mul_mat(weight(1, 8, 8), t.mul_mat(weight(1, 8, 8), x))
    ops = [node.op for node, device in placed(last, Devices(1)).nodes if device == 0]
    assert ops == ["none", "none", "mul_mat", "none", "mul_mat"]


def test_pipelines_have_four_copies_of_each_input() -> None:
    x = t.graph_input(F32, 8, 4)
    last = t.mul_mat(weight(1, 8, 8), t.mul_mat(weight(0, 8, 8), x))
    found = placed(last, Devices(2, copies=4))
    by_device = [device for tensor, device in found.leafs if tensor.input]
    assert (by_device.count(0), by_device.count(1)) == (4, 4)  # of the input, and of the first product
    assert all(tensor.output for tensor, _ in found.leafs if tensor.input)
