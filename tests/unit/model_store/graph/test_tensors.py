"""Tensors without data: sizes, views, and the order of a graph."""

from __future__ import annotations

from nexus_tasks.model_store.graph import tensors as t
from nexus_tasks.model_store.graph.tensors import F16, F32, Graph


def test_the_bytes_of_a_view_go_from_its_first_to_its_last() -> None:
    whole = t.leaf(F32, 10, 4)
    assert whole.data_bytes() == 160
    assert t.view(whole, (3, 4), (whole.nb[1],)).data_bytes() == 3 * 40 + 12
    assert t.view(whole, (10, 0), (whole.nb[1],)).data_bytes() == 0
    assert t.leaf(12, 512, 2).data_bytes() == 2 * 2 * 144


def test_a_view_of_a_view_is_one_of_the_memory() -> None:
    whole = t.leaf(F32, 8, 4, 2)
    turned = t.permute(t.reshape(whole, 4, 2, 8), 0, 2, 1, 3)
    assert turned.view is whole
    assert (turned.ne, turned.nb) == ((4, 8, 2, 1), (4, 32, 16, 256))
    assert not turned.is_contiguous
    assert t.cont(turned).is_contiguous


def test_operations_have_the_shapes_that_ggml_gives_them() -> None:
    x, weight = t.leaf(F32, 8, 5), t.leaf(F16, 8, 3)
    assert t.mul_mat(weight, x).ne == (3, 5, 1, 1)
    experts, ids = t.leaf(F16, 8, 3, 6), t.leaf(t.I32, 2, 5)
    assert t.mul_mat_id(experts, t.reshape(x, 8, 1, 5), ids).ne == (3, 2, 5, 1)
    assert t.get_rows(x, t.leaf(t.I32, 4)).ne == (8, 4, 1, 1)
    assert t.gated(x).ne == (4, 5, 1, 1)
    assert t.concat(x, x, 1).ne == (8, 10, 1, 1)
    assert t.top_k(x, 2).ne == (2, 5, 1, 1)
    assert t.set_rows(x, weight, ids).view is x


def test_nodes_come_after_what_they_need_and_once() -> None:
    graph = Graph()
    x, y = t.leaf(F32, 4), t.leaf(F32, 4)
    first = t.add(x, y)
    last = graph.expand(t.mul(t.unary(first), first))
    graph.expand(last)
    assert [node.op for node in graph.nodes] == ["add", "unary", "mul"]
    assert graph.leafs == [x, y]
