"""What would make a model fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import shape_of
from nexus_tasks.model_store.memory import DOES_NOT_FIT, Gpu, MemoryPlan, plan_memory
from nexus_tasks.model_store.remedies import remedies
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write

Planner = Callable[[Sequence[str]], MemoryPlan]


def planner(folder: Path, name: str, free_mib: float) -> Planner:
    shape = shape_of(gguf.read_model(str(write(folder / "m.gguf", MODELS[name]))))

    def plan(words: Sequence[str]) -> MemoryPlan:
        return plan_memory(shape, parse_options(words)[0], [Gpu("CUDA0", free_mib)])

    return plan


def found(plan: Planner, line: str) -> dict[str, tuple[str, ...]]:
    words = line.split()
    made = plan(words)
    assert made.verdict == DOES_NOT_FIT
    return {one.what: one.options for one in remedies(made, words, plan)}


def test_each_remedy_fits_and_one_step_less_does_not(tmp_path: Path) -> None:
    plan, line = planner(tmp_path, "qwen3moe", 4600), "-c 65536 -np 4 -fa on"
    options = found(plan, line)
    words = line.split()
    assert set(options) >= {"a smaller context", "experts in the host's memory", "a quantised cache", "fewer slots"}
    for more in options.values():
        assert not more or plan([*words, *more]).verdict != DOES_NOT_FIT
    context = int(options["a smaller context"][1])
    assert plan([*words, "-c", str(context + 4 * 1024)]).verdict == DOES_NOT_FIT
    layers = int(options["experts in the host's memory"][1])
    assert plan([*words, "--n-cpu-moe", str(layers - 1)]).verdict == DOES_NOT_FIT


def test_where_only_the_weights_are_too_large_a_smaller_quantisation_is_named(tmp_path: Path) -> None:
    options = found(planner(tmp_path, "qwen2", 1900), "-c 1024 -np 1")
    (only,) = options
    assert only.startswith("another quantisation of the model, of 1.3 GiB")
    assert only.endswith("GiB or less (1.7 now)")


def test_nothing_is_named_where_nothing_helps(tmp_path: Path) -> None:
    assert found(planner(tmp_path, "qwen2", 100), "-c 1024 -np 1") == {}


@pytest.mark.parametrize("line", ["-c 65536 -np 4 -kvu -fa on", "-c 65536 -np 4 -fa on"], ids=["shared", "apart"])
def test_fewer_slots_keep_what_each_has(tmp_path: Path, line: str) -> None:
    options = found(planner(tmp_path, "qwen3moe", 4600), line).get("fewer slots")
    assert options is None or int(options[3]) == 16384 * int(options[1])


def test_the_most_slots_are_found_with_few_plans(tmp_path: Path) -> None:
    plan, line, asked = planner(tmp_path, "qwen3moe", 5800), "-c 262144 -np 256 -fa on", []

    def counted(words: Sequence[str]) -> MemoryPlan:
        asked.append(words)
        return plan(words)

    _, slots, _, context = found(counted, line)["fewer slots"]
    assert int(context) == 1024 * int(slots)
    more = int(slots) + 1
    assert plan([*line.split(), "-np", str(more), "-c", str(1024 * more)]).verdict == DOES_NOT_FIT
    assert len(asked) < 50


def test_no_context_is_looked_for_where_the_weights_have_no_room(tmp_path: Path) -> None:
    plan, asked = planner(tmp_path, "qwen2", 100), []

    def counted(words: Sequence[str]) -> MemoryPlan:
        asked.append(words)
        return plan(words)

    assert found(counted, "-c 65536 -np 64") == {}
    assert len(asked) == 1


def test_a_search_ends_after_a_while_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, line = planner(tmp_path, "qwen3moe", 4600), "-c 65536 -np 4 -fa on"
    whole = found(plan, line)
    seconds = itertools.count()
    monkeypatch.setattr("nexus_tasks.model_store.remedies.time.monotonic", lambda: float(next(seconds)))
    options = found(plan, line)
    assert 0 < int(options["a smaller context"][1]) <= int(whole["a smaller context"][1])
    assert "experts in the host's memory" not in options


def test_where_only_the_host_is_full_its_caches_give_way(tmp_path: Path) -> None:
    shape = shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["gemma-3-27b-Q4_K_M"]))))

    def plan(words: Sequence[str], host: float = 65536) -> MemoryPlan:
        return plan_memory(shape, parse_options(words)[0], [Gpu("CUDA0", 98304)], host_free_mib=host)

    options = found(plan, "-c 32768 -np 4")
    words = ["-c", "32768", "-np", "4"]
    fewer = options["fewer checkpoints"]
    assert plan([*words, *fewer]).verdict != DOES_NOT_FIT
    assert plan([*words, fewer[0], str(int(fewer[1]) + 1)]).verdict == DOES_NOT_FIT
    assert not any("quantisation" in what for what in options)
    smaller = found(lambda words: plan(words, 9000), "-c 32768 -np 4 --ctx-checkpoints 0")
    assert (
        plan([*words, "--ctx-checkpoints", "0", *smaller["a smaller cache of prompts"]], 9000).verdict != DOES_NOT_FIT
    )
