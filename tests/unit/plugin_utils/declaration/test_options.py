"""Types and defaults of options."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.plugin_utils.declaration.options import mode_of, parsed, uses_gpu
from plugins.plugin_utils.declaration.rules import instance_spec, router_model_spec


def test_options_get_their_types_and_defaults_and_null_is_unset() -> None:
    values, wrong = parsed({"model": "tiny", "port": "8600", "ctx_size": None}, instance_spec())
    assert (values["port"], values["host"], "ctx_size" in values, wrong) == (8600, "127.0.0.1", False, [])


def test_each_problem_is_a_line_that_leads_to_the_reference() -> None:
    _, wrong = parsed({"model": "tiny", "port": 8600, "ctx_sise": 1, "device": True}, instance_spec())
    assert wrong == [
        "there is no option ctx_sise: did you mean ctx_size? (docs/reference.md lists the options)",
        "device holds what is no text: put it in quotes (docs/reference.md lists the options)",
    ]


def test_a_routers_model_takes_no_option_of_the_router() -> None:
    assert {"port", "host", "api_keys", "chat_template"}.isdisjoint(router_model_spec())
    assert {"model", "ctx_size", "sampling_preset", "load_on_startup"} <= set(router_model_spec())


@pytest.mark.parametrize(
    ("values", "mode"),
    [({"models": {"a": {}}}, "router"), ({"embeddings": True}, "embedding"), ({"reranking": True}, "reranking"),
     ({}, "completion")],
)  # fmt: skip
def test_an_instance_has_one_of_four_modes(values: dict[str, Any], mode: str) -> None:
    assert mode_of(values) == mode


@pytest.mark.parametrize(
    ("values", "backend", "expected"),
    [({}, "cuda", True), ({}, "cpu", False), ({"n_gpu_layers": 0}, "cuda", False), ({"n_gpu_layers": 9}, "cpu", True),
     ({"device": "none", "n_gpu_layers": 9}, "cuda", False)],
)  # fmt: skip
def test_layers_are_on_a_gpu_where_that_is_said_or_what_cuda_does_by_itself(
    values: dict[str, Any], backend: str, expected: bool
) -> None:
    assert uses_gpu(values, backend) is expected
