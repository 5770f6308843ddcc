"""Places of tensors in buffers; whole models are held against llama.cpp's in test_memory.py."""

from __future__ import annotations

from nexus_tasks.model_store.graph import tensors as t
from nexus_tasks.model_store.graph.allocator import buffer_bytes, cuda_bytes, row_padding
from nexus_tasks.model_store.graph.scheduler import Devices, split
from nexus_tasks.model_store.graph.tensors import F16, F32, Graph, Tensor

MIB = 1 << 20


def bytes_of(*outputs: Tensor) -> int:
    """The host's buffer, where all is computed there."""
    graph = Graph()
    for one in outputs:
        graph.expand(one)
    (size,) = buffer_bytes(split(graph, Devices(0)), 0)
    return size


def tensor() -> Tensor:
    return t.graph_input(F32, 1024, 256)  # a MiB


def test_an_operation_takes_its_sources_place_where_that_is_its_last_use() -> None:
    x = tensor()
    assert bytes_of(t.unary(t.scale(x))) == MIB
    assert bytes_of(t.add(t.unary(x), x)) == 2 * MIB


def test_views_have_no_place_to_take() -> None:
    assert bytes_of(t.unary(t.reshape(tensor(), 256, 1024))) == 2 * MIB


def test_places_are_free_after_the_last_use() -> None:
    x = tensor()
    long = x
    for _ in range(6):
        long = t.like("norm", long)  # is never in place
    assert bytes_of(long) == 2 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    small, large = t.graph_input(F32, 1024, 16), tensor()
    kept = t.like("norm", tensor())
    freed = [t.like("norm", small), t.like("norm", large)]
    last = t.concat(t.concat(kept, freed[1], 1), freed[0], 1)
    assert bytes_of(last) < 8 * MIB


def test_outputs_stay_to_the_end() -> None:
    def three(*, kept: bool) -> int:
        first = t.like("norm", tensor())
        first.output = kept
        return bytes_of(t.like("norm", t.like("norm", first)))

    assert (three(kept=False), three(kept=True)) == (2 * MIB, 3 * MIB)


def test_quantised_rows_are_padded_on_gpus() -> None:
    assert row_padding(8, 2880) == (3072 - 2880) // 32 * 34
    assert row_padding(8, 1024) == row_padding(F16, 2880) == 0


def test_flash_attention_converts_caches_of_other_types_unless_for_single_tokens() -> None:
    def size(kind: int, tokens: int) -> int:
        q = t.permute(t.leaf(F32, 128, 8, tokens), 0, 2, 1, 3)
        k, v = (t.permute(t.leaf(kind, 128, 2, 4096), 0, 2, 1, 3) for _ in "kv")
        return cuda_bytes(t.flash_attention(q, k, v, None, None))

    out = 128 * 8 * 64 * 4
    assert size(F16, 64) == out
    assert size(8, 64) == out + 2 * 128 * 2 * 4096 * 2
    assert size(8, 1) == 128 * 8 * 4
