"""What llama.cpp says, held against the rules. Its answers are made up here; tests/integration asks the real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.fit_params import Device
from nexus_tasks.model_store.cross_check import Answer, cross_check, requests, tool_words
from nexus_tasks.model_store.memory import Gpu
from nexus_tasks.model_store.planning import Planning
from nexus_tasks.model_store.server_options import parse_options
from tests.fakes import tiny_mmproj
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write(tmp_path / "m.gguf", MODELS["qwen3moe"]))


def asking(model: str, line: str, *gpus: float) -> Planning:
    devices = [Gpu(f"CUDA{number}", free) for number, free in enumerate(gpus)]
    return Planning.of(model, line.split(), devices, catalogue={})


def answer(asked: Planning, line: str, *, more: int = 0) -> Answer:
    """What the tool would say if it agreed, but for so many MiB of the first device's cache."""
    made = asked.plan(line.split())
    devices = [Device(one.name, int(one.weights_mib), int(one.kv_mib), 500) for one in made.devices]
    devices[0] = devices[0]._replace(context_mib=devices[0].context_mib + more)
    return Answer(((*devices[:-1], devices[-1]._replace(name="Host")),), (), None)


WORDS = {
    "": "-c 0 -np 1 -b 2048 -ub 512 -fa auto -ctk f16 -ctv f16 -sm layer",
    "-c 8192 -np 4 -ctk q8_0": "-c 8192 -np 4 -b 2048 -ub 512 -fa auto -ctk q8_0 -ctv f16 -sm layer",
    "-c 8192 -np 4 -kvu": "-c 8192 -np 1 -b 2048 -ub 512 -fa auto -ctk f16 -ctv f16 -sm layer",
    "-np 1 -ngl 7 -ot a=CPU --cpu-moe -dev none -mg 1 --swa-full -nkvo --no-op-offload": (
        r"-c 0 -np 1 -b 2048 -ub 512 -fa auto -ctk f16 -ctv f16 -sm layer -ngl 7 "
        r"-ot a=CPU,\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU -dev none -mg 1 --swa-full -nkvo --no-op-offload"
    ),
}


@pytest.mark.parametrize("line", WORDS)
def test_a_servers_options_are_said_as_the_tool_takes_them(line: str) -> None:
    assert " ".join(tool_words(parse_options(line.split())[0], [])) == WORDS[line]


def test_layers_are_split_as_on_the_gpus_that_were_given() -> None:
    gpus = [Gpu("CUDA0", 24576), Gpu("CUDA1", 16384)]
    assert tool_words(parse_options([])[0], gpus)[-2:] == ["-ts", "24576,16384"]
    assert tool_words(parse_options(["-ts", "3,1"])[0], gpus)[-2:] == ["-ts", "3,1"]


def test_where_both_agree_nothing_differs(model: str) -> None:
    line = "-c 8192 -np 2"
    asked = asking(model, line, 24576, 16384)
    checked = cross_check(asked, answer(asked, line))
    assert checked.differences == ()
    assert (checked.plan.engine, checked.plan.devices[0].compute_mib) == ("llama.cpp", 500)
    assert checked.analytic is not None
    assert checked.analytic.engine == "analytic"


@pytest.mark.parametrize("more", [-1, 3])
def test_what_differs_is_named_with_both_figures(model: str, more: int) -> None:
    line = "-c 8192 -np 2"
    asked = asking(model, line, 24576)
    (difference,) = cross_check(asked, answer(asked, line, more=more)).differences
    kv = asked.plan(line.split()).devices[0].kv_mib
    assert difference == f"CUDA0: KV are {int(kv) + more:,} MiB by llama.cpp, {kv:,.2f} by the rules"


def test_what_the_tool_can_not_be_asked_is_added_by_the_rules(tmp_path: Path) -> None:
    model = str(write(tmp_path / "m.gguf", MODELS["gemma-3-27b-Q4_K_M"]))
    asked = asking(model, "-c 32768 -np 4 -kvu", 98304)
    checked = cross_check(asked, answer(asked, "-c 32768 -np 1"))
    assert checked.differences == ()
    assert checked.plan.devices[0].kv_mib == pytest.approx(asked.plan(asked.words).devices[0].kv_mib, abs=1)


def test_a_draft_model_is_asked_about_with_the_context_of_the_main_one(model: str) -> None:
    asked = asking(model, f"-c 8192 -np 1 -md {model} -ngld 2", 24576)
    (_, own), (draft, words) = requests(asked)
    assert draft == model
    assert (own[:2], words[:2], words[-2:]) == (["-c", "8192"], ["-c", "8192"], ["-ngl", "2"])
    alone = answer(asked, "-c 8192 -np 1").models[0]
    checked = cross_check(asked, Answer((alone, alone), (), None))
    assert checked.plan.devices[0].kv_mib == 2 * alone[0].context_mib


def test_without_given_gpus_those_that_are_there_count(model: str) -> None:
    asked = asking(model, "-c 8192")
    there = replace(answer(asking(model, "", 9000), "-c 8192 -np 1"), gpus_free_mib=(9000.0,), host_free_mib=64000.0)
    checked = cross_check(asked, there)
    assert [device.free_mib for device in checked.plan.devices] == [9000, 64000]
    assert checked.asked.gpus == (Gpu("CUDA0", 9000),)


def test_an_architecture_without_rules_is_planned_by_the_tool_alone(model: str) -> None:
    asked = asking(model, "-c 8192 -np 4 -kvu", 24576)
    told = answer(asked, "-c 8192 -np 1")
    asked = replace(asked, shape=replace(asked.shape, architecture="rwkv9"))
    checked = cross_check(asked, told)
    assert checked.analytic is None
    card, host = checked.plan.devices
    assert (card.kv_mib, card.free_mib, card.verdict) == (told.models[0][0].context_mib, 24576, "fits")
    assert host.mapped_mib == pytest.approx(166.92, abs=0.01)
    assert "don't cover architecture rwkv9" in checked.plan.notes[0]
    assert "one slot" in checked.plan.notes[1]


@pytest.mark.parametrize(
    ("given", "there", "message"),
    [
        ((24576.0,), (), "sees no GPU there, and --gpus names 1"),
        ((), (1.0, 1.0), "sees CUDA0, CUDA1 there, and nvidia-smi"),
    ],
    ids=["fewer", "unknown"],
)
def test_devices_that_do_not_agree_are_told(model: str, given: tuple[float], there: tuple[float], message: str) -> None:
    asked = asking(model, "-c 8192", *given)
    told = answer(asking(model, "", *there), "-c 8192 -np 1")
    with pytest.raises(UsageError, match=message):
        cross_check(asked, told)


def test_what_the_processor_reorders_is_added_by_the_rules(tmp_path: Path) -> None:
    q4_0 = replace(MODELS["smollm3"], types=lambda name: 2 if name == "token_embd.weight" else None)
    asked = asking(str(write(tmp_path / "m.gguf", q4_0)), "-c 8192 -np 2")
    checked = cross_check(asked, answer(asked, "-c 8192 -np 2 --no-repack"))
    assert checked.differences == ()
    copy = asked.shape.tensors["token_embd.weight"].size_bytes
    assert checked.plan.devices[-1].weights_mib == pytest.approx((asked.shape.size_bytes + copy) / (1 << 20), abs=1)


def test_a_projector_on_a_gpu_that_the_model_is_not_on_is_added_by_the_rules(model: str, tmp_path: Path) -> None:
    tiny_mmproj.write(tmp_path / "mmproj.gguf")
    line = "-c 8192 -np 2 -sm none -mg 1"
    asked = asking(model, f"{line} --mmproj {tmp_path / 'mmproj.gguf'}", 24576, 24576)
    checked = cross_check(asked, answer(replace(asked, projector=None), line))
    assert {device.name for device in checked.plan.devices} == {"CUDA0", "CUDA1", "host"}
    assert checked.differences == ()
