"""Context against memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import shape_of
from nexus_tasks.model_store.curves import contexts, curve
from nexus_tasks.model_store.memory import MIB, Gpu, MemoryPlan, plan_memory
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write


def plan(folder: Path, options: str, *gpus: float) -> MemoryPlan:
    shape = shape_of(gguf.read_model(str(write(folder / "m.gguf", MODELS["Llama-3.1-8B-Q4_K_M"]))))
    devices = [Gpu(f"CUDA{number}", free) for number, free in enumerate(gpus)]
    return plan_memory(shape, parse_options(options.split())[0], devices)


def test_points_go_from_a_small_context_to_that_of_the_training(tmp_path: Path) -> None:
    made = plan(tmp_path, "-c 50000 -np 1", 24576)
    points = list(curve(made))
    assert [point.n_ctx for point in points] == contexts_padded(made)
    assert points[-1].n_ctx == 131072
    totals = [point.weights + point.kv + point.compute for point in points]
    assert totals == sorted(totals)


def contexts_padded(made: MemoryPlan) -> list[int]:
    return [n_ctx + -n_ctx % 256 for n_ctx in contexts(made)]


def test_a_point_is_what_a_plan_on_one_gpu_says(tmp_path: Path) -> None:
    made = plan(tmp_path, "-c 8192 -np 1 -ts 3,1", 24576, 24576)
    *_, point = curve(made)
    (card, _) = plan(tmp_path, f"-c {point.n_ctx} -np 1", 98304).devices
    assert (point.weights / MIB, point.kv / MIB) == pytest.approx((card.weights_mib, card.kv_mib))
    assert point.compute / MIB == pytest.approx(card.compute_mib)


@pytest.mark.parametrize("options", ["-c 200000 -np 1", "-c 8192 -np 4", "-c 1024 -np 4 -kvu"])
def test_contexts_are_several_and_in_order(tmp_path: Path, options: str) -> None:
    found = contexts(plan(tmp_path, options, 24576))
    assert found == sorted(set(found))
    assert len(found) >= 4
