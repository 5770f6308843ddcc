"""Records of memory plans."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.fleet import inventory, plan_records, planned
from nexus_tasks.model_store.memory import Gpu
from nexus_tasks.model_store.model_sources import open_model
from nexus_tasks.model_store.planning import Planning
from nexus_tasks.records import store
from nexus_tasks.records.store import PlanRecord
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m.gguf", MODELS["qwen3moe"])


@pytest.fixture
def record(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanRecord:
    """Twenty hosts of two kinds, each with two instances of one model, one of them with an option of its own."""

    def host(number: int) -> dict[str, Any]:
        lines = {"main": ["-c", "8192", "-np", "1"], "wide": ["-c", "16384", "-np", "1"]}
        models = [
            {"instance": name, "model": "m", "argv": ["--model", "m", *words], "gpus": None}
            for name, words in lines.items()
        ]
        profiles = {"m": {"path": str(model), "quantization": "Q4_K_M"}}
        declared = {"models": models, "profiles": profiles, "problems": []}
        memory = [24576, 24576] if number % 2 else [81920]
        return {"host": f"rig-{number}", "gpu_memory": memory, "host_memory": None, "declared": declared}

    hosts = [host(number) for number in range(20)]
    monkeypatch.setattr(inventory, "answer", lambda pattern, play, variable: (hosts, {}))
    fleet = planned.declared_models("all", tmp_path)
    shape = open_model(str(model), {})
    rows = planned.plan_all(fleet.models, lambda name, profiles: shape)
    path = plan_records.of_fleet("all", fleet, rows, results=tmp_path, began=time.monotonic(), tag="before")
    return store.load(path, "plan")


def test_hosts_that_are_alike_share_a_plan(record: PlanRecord) -> None:
    assert (len(record.hosts), len(record.servers), len(record.plans)) == (20, 40, 4)
    assert (len(record.models), len(record.curves)) == (1, 1)  # they differ in their contexts alone
    assert {server.plan for server in record.servers} == {plan.number for plan in record.plans}
    assert record.header.tag == "before"
    assert record.summary is not None
    assert record.summary.fits == 40


def test_a_model_is_told_with_its_types_and_parameters(record: PlanRecord) -> None:
    (model,) = record.models
    assert (model.profile, model.quantization, model.architecture) == ("m", "Q4_K_M", "qwen3moe")
    assert sum(model.types_mib.values()) == pytest.approx(model.size_mib, abs=0.01)
    assert model.parameters > 1e9


def test_plans_and_curves_have_the_figures(record: PlanRecord) -> None:
    plan = record.plans[0]
    (curve,) = (one for one in record.curves if one.number == plan.curve)
    assert plan.options == ["-c", "8192", "-np", "1"]
    assert curve.options == ["-np", "1"]
    on_gpus = sum(device.weights_mib for device in plan.devices if device.name != "host")
    assert [point.weights_mib for point in curve.points] == pytest.approx([on_gpus] * len(curve.points), abs=0.01)
    kv_of_a_token = sum(device.kv_mib for device in plan.devices) / plan.context.n_ctx
    assert curve.points[-1].kv_mib == pytest.approx(curve.points[-1].n_ctx * kv_of_a_token, abs=0.01)


def test_a_model_that_was_asked_for_has_a_record_too(model: Path, tmp_path: Path) -> None:
    asked = Planning.of(str(model), ["-c", "8192"], [Gpu("CUDA0", 3000)], catalogue={})
    plan = asked.plan(asked.words)
    found = asked.remedies(plan)
    path = plan_records.of_model(asked, plan, found, results=tmp_path, began=time.monotonic(), tag="x")
    record = store.load(path, "plan")
    assert record.header.options == ["-c", "8192"]
    assert record.servers == []
    assert [one.what for one in record.plans[0].remedies] == [one.what for one in found]
    assert record.summary is not None
    assert record.summary.does_not_fit == 1
