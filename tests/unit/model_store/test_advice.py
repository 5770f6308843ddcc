"""Hardware advice: what is offered fits by its own plan, and a step more does not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from nexus_tasks.hostlib.gguf import read_model
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.advice import EXPERTS_ON_HOST, LAYERS_ON_HOST, ON_GPUS, Host, advise
from nexus_tasks.model_store.hub_listing import variant_of
from nexus_tasks.model_store.memory import DOES_NOT_FIT, Gpu, plan_memory
from nexus_tasks.model_store.registry import KnownModel, ModelFile, Variant
from nexus_tasks.model_store.server_options import parse_options
from nexus_tasks.model_store.variants import describe
from tests.memory_model_list import MODELS
from tests.memory_models import write

LARGE = Host((65536.0,))
NAMES = {"moe-Q4_K_M.gguf": "qwen3moe", "dense-Q8_0.gguf": "qwen3"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelShape]:
    folder = tmp_path_factory.mktemp("shapes")
    return {file: shape_of(read_model(str(write(folder / file, MODELS[name])))) for file, name in NAMES.items()}


def given(shape: ModelShape) -> Callable[[Variant], ModelShape]:
    """A shape for any variant."""
    return lambda _: shape


@pytest.fixture(scope="module")
def model(shapes: dict[str, ModelShape]) -> KnownModel:
    """Of two quite different variants, the mixture of experts the smaller by name and size."""
    variants = [
        describe(variant_of([ModelFile(name=file, size_bytes=shape.size_bytes)]), given(shape))
        for file, shape in shapes.items()
    ]
    return KnownModel(name="m", source="hub", place="m", added_at="", variants=variants)


def verdict(shape: ModelShape, options: tuple[str, ...], gpus: list[float]) -> str:
    parsed, _ = parse_options([*options, "-np", "1", "--fit", "off"])
    return plan_memory(shape, parsed, [Gpu(f"CUDA{number}", mib) for number, mib in enumerate(gpus)]).verdict


def test_offers_fit_and_more_of_them_would_not(model: KnownModel, shapes: dict[str, ModelShape]) -> None:
    needs = {one.file: one.needs for one in model.variants}
    whole = needs["moe-Q4_K_M.gguf"][0].gpu_mib
    hosts = {"large": [65536.0, 65536.0], "middle": [whole - 200.0], "small": [whole / 2], "tiny": [300.0]}
    found = advise(model, {name: Host(tuple(gpus)) for name, gpus in hosts.items()}, ctx_size=8192)
    assert found.unplanned == {}
    assert {one.host for one in found.offers} == {"large", "middle", "small"}
    for one in found.offers:
        shape = shapes[one.variant.file]
        assert verdict(shape, one.options, hosts[one.host]) == one.verdict != DOES_NOT_FIT
        assert all(mib <= free for mib, free in zip(one.gpu_mib, hosts[one.host], strict=True))
        *rest, flag, number = one.options
        if one.place == EXPERTS_ON_HOST and int(number):
            assert verdict(shape, (*rest, flag, str(int(number) - 1)), hosts[one.host]) == DOES_NOT_FIT
        if one.place == LAYERS_ON_HOST and int(number) <= shape.n_layer_all:
            assert verdict(shape, (*rest, flag, str(int(number) + 1)), hosts[one.host]) == DOES_NOT_FIT
    assert {one.place for one in found.offers} >= {ON_GPUS, EXPERTS_ON_HOST}


def test_the_best_has_enough_context_all_on_gpus_and_the_largest_quantisation(model: KnownModel) -> None:
    found = advise(model, {"a": LARGE, "b": LARGE}, ctx_size=4096)
    sizes = [one.variant.size_bytes for one in found.offers]
    assert [one.place for one in found.offers] == [ON_GPUS] * 4
    assert sizes == sorted(sizes, reverse=True)
    assert [one.host for one in found.offers] == ["a", "b", "a", "b"]
    ranks = [one.rank(4096) for one in found.offers]
    assert ranks == sorted(ranks)


def test_what_can_not_be_planned_is_told_with_its_reason(model: KnownModel) -> None:
    bare = msgspec.structs.replace(model.variants[0], headers=[], problem="the rules don't cover it")
    found = advise(msgspec.structs.replace(model, variants=[bare]), {"a": LARGE}, ctx_size=4096)
    assert (found.offers, found.unplanned) == ((), {bare.file: "the rules don't cover it"})


def test_what_the_host_has_no_memory_for_is_not_offered(model: KnownModel) -> None:
    whole = next(one.needs[0].gpu_mib for one in model.variants if one.file == "moe-Q4_K_M.gguf")
    hosts = {"much": Host((whole / 2,), 65536.0), "little": Host((whole / 2,), 600.0)}
    found = advise(model, hosts, ctx_size=8192)
    assert {one.host for one in found.offers if one.place == EXPERTS_ON_HOST} == {"much"}
