"""Admission of servers to a host by their plans of memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.admission import Admission, HostGpu, Model, Server, admit
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    """A model with experts, which takes 3,944 MiB of one GPU with 8192 tokens in one slot."""
    return shape_of(gguf.read_model(str(write(tmp_path_factory.mktemp("m") / "m.gguf", MODELS["qwen3moe"]))))


SMALL = "-c 8192 -np 1 -ngl 99"


def gpu(free_mib: float, room_mib: float | None = None, key: str = "GPU-0") -> HostGpu:
    return HostGpu(key, "NVIDIA L4", free_mib if room_mib is None else room_mib, free_mib)


def server(shape: ModelShape, *gpus: HostGpu, words: str = SMALL, name: str = "main", allowed: bool = False) -> Server:
    return Server(name, (Model("", tuple(words.split()), shape),), gpus, 1, allowed)


def one(found: Admission) -> tuple[str, str]:
    """What becomes of the only server, and what is said about it."""
    kinds = {"fitting": found.fitting, "refused": found.refused, "warned": found.warnings, "unplanned": found.unplanned}
    [(kind, text)] = [(kind, "".join(said.values())) for kind, said in kinds.items() if said]
    return kind, text


def test_what_fits_is_told_with_what_is_there(shape: ModelShape) -> None:
    kind, text = one(admit([server(shape, gpu(24_000))], 60_000))
    assert kind == "fitting"
    assert " of 24,000 MiB of CUDA0 (NVIDIA L4), " in text
    assert text.endswith(" of 60,000 MiB of the host's memory")


def test_what_does_not_fit_is_one_line_with_what_is_short_and_what_would_fit(shape: ModelShape) -> None:
    kind, text = one(admit([server(shape, gpu(3500))], 60_000))
    assert kind == "refused"
    assert "\n" not in text
    assert text.startswith("does not fit: CUDA0 (NVIDIA L4) is short by ")
    assert "MiB: " in text
    assert " are needed (weights " in text
    assert "3,500 are free; it would with " in text
    assert "--n-cpu-moe " in text
    assert text.endswith("or deploy it all the same: llama_server_allow_overcommit: true")


def test_each_remedy_that_is_named_fits(shape: ModelShape) -> None:
    said: list[tuple[str, ...]] = []

    def in_words(options: Sequence[str]) -> str:
        said.append(tuple(options))
        return ""

    admit([server(shape, gpu(3500), words="-c 32768 -np 4 -ngl 99")], 60_000, in_words)
    assert said
    for options in said:
        again = server(shape, gpu(3500), words=" ".join(["-c 32768 -np 4 -ngl 99", *options]))
        assert one(admit([again], 60_000))[0] == "fitting", options


def test_overcommit_is_allowed_visibly(shape: ModelShape) -> None:
    found = admit([server(shape, gpu(3500), allowed=True)], 60_000)
    kind, text = one(found)
    assert kind == "warned"
    assert text.startswith("does not fit: CUDA0 (NVIDIA L4) is short by ")
    assert text.endswith("it is deployed all the same, as llama_server_allow_overcommit says")
    assert found.plans["main"]["parts"]


def test_what_is_replaced_gives_its_memory_back_and_what_a_trial_needs_is_for_what_is_free_now(
    shape: ModelShape,
) -> None:
    found = admit([server(shape, gpu(1000, room_mib=9000))], 60_000)
    assert one(found)[0] == "fitting"
    assert found.plans["main"]["needs"]["gpus"]["GPU-0"] > 3900


def test_servers_of_a_gpu_are_added_and_each_has_what_those_before_it_leave(shape: ModelShape) -> None:
    there = [gpu(7500), gpu(7500, key="GPU-1")]
    servers = [server(shape, there[0], name="a"), server(shape, there[1], name="b"), server(shape, there[0], name="c")]
    found = admit(servers, 60_000)
    assert list(found.fitting) == ["a", "b"]
    assert found.refused["c"].startswith("does not fit beside a and b: CUDA0 (NVIDIA L4) is short by ")


def test_the_hosts_memory_counts_as_far_as_it_is_taken_at_the_start(shape: ModelShape) -> None:
    # Prompts may take 8 GiB more later: that is capped, and not held from the beginning.
    assert one(admit([server(shape, gpu(24_000))], 2000))[0] == "fitting"
    kind, text = one(admit([server(shape)], 2000))
    assert (kind, text[:50]) == ("refused", "does not fit: the host's memory is short by " + text[44:50])


def test_a_context_that_nobody_declared_is_shrunk_by_fit_and_not_refused(shape: ModelShape) -> None:
    kind, text = one(admit([server(shape, gpu(5000), words="-np 1 -ngl 99")], 60_000))
    assert kind == "warned"
    assert text.endswith("since no ctx_size is declared, --fit will shrink its context to what fits")
    # It does not go below 4096 tokens, and where it is off it does nothing.
    assert one(admit([server(shape, gpu(3000), words="-np 1 -ngl 99")], 60_000))[0] == "refused"
    assert one(admit([server(shape, gpu(5000), words="-np 1 -ngl 99 --fit off")], 60_000))[0] == "refused"


def test_layers_that_fit_would_move_off_the_gpu_are_told(shape: ModelShape) -> None:
    tight = gpu(4100)
    found = admit([server(shape, tight, words="-c 8192 -np 1")], 60_000)
    assert found.fitting
    assert "may move layers to the host: set n_gpu_layers, or fit: off" in found.warnings["main"]
    assert not admit([server(shape, tight)], 60_000).warnings


def test_a_router_needs_as_much_as_the_largest_models_that_it_holds(shape: ModelShape) -> None:
    models = tuple(Model(name, tuple(SMALL.split()), shape) for name in ("a", "b", "c"))
    for at_once, fits in ((1, True), (2, True), (3, False)):
        found = admit([Server("router", models, (gpu(10_000),), at_once)], 60_000)
        assert bool(found.fitting) == fits, at_once
    assert {part["model"] for part in found.plans["router"]["parts"]} == {"a", "b", "c"}


def test_what_the_rules_do_not_cover_is_named_and_not_refused(shape: ModelShape) -> None:
    found = admit(
        [server(shape, gpu(24_000), words=f"{SMALL} --lora a.gguf"), server(shape, gpu(24_000), name="b")], None
    )
    assert "--lora" in found.unplanned["main"]
    assert (list(found.fitting), found.refused) == (["b"], {})


def test_parts_are_the_buffers_that_the_log_will_name(shape: ModelShape) -> None:
    parts = admit([server(shape, gpu(24_000))], None).plans["main"]["parts"]
    assert [(part["device"], part["part"]) for part in parts] == [
        (device, part) for device in ("CUDA0", "host") for part in ("weights", "KV", "compute")
    ]
    (mapped, *_) = admit([server(shape)], None).plans["main"]["parts"]
    assert mapped["plan_mib"] > 1.5 * shape.size_bytes / (1 << 20)  # most is reordered beside the file
    assert parts[1]["plan_mib"] == 128.0  # 8 layers, 8192 cells, K and V of 4 heads of 128 in f16
