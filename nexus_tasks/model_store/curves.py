"""Curves of memory against context, of a plan with other contexts.

for point in curve(plan):
    point.n_ctx, point.weights, point.kv, point.compute         bytes of one GPU with room for all
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .memory import MIB, Gpu, MemoryPlan, plan_memory

SMALLEST = 4096
POINTS = 5
ROOM_MIB = float(1 << 24)


@dataclass(frozen=True)
class Point:
    """Memory of a context, in bytes."""

    n_ctx: int
    weights: float
    kv: float
    compute: float


def curve(plan: MemoryPlan) -> Iterator[Point]:
    """Points from a small context to that of the training, or to the plan's own where that is larger.

    All other options are the plan's, and all layers that it has on GPUs are on one that has room for them. Raises
    UsageError where the model does not take one of the contexts.
    """
    options = replace(plan.options, tensor_split=(), split_mode="layer", devices=None, main_gpu=0)
    for n_ctx in contexts(plan):
        made = plan_memory(plan.shape, replace(options, ctx_size=n_ctx), [Gpu("CUDA0", ROOM_MIB)])
        card = made.devices[0]
        yield Point(made.context.n_ctx, card.weights_mib * MIB, card.kv_mib * MIB, card.compute_mib * MIB)


def contexts(plan: MemoryPlan) -> list[int]:
    """Contexts of all slots, each double the one before or more; the same for plans that differ in theirs alone."""
    slots = 1 if plan.context.unified else plan.context.n_seq_max
    largest = max(plan.shape.n_ctx_train * slots, plan.context.n_ctx)
    smallest = min(SMALLEST * slots, largest)
    step = (largest / smallest) ** (1 / (POINTS - 1))
    between = [round(smallest * step**place) for place in range(1, POINTS - 1)]
    return sorted({smallest, *between, largest})
