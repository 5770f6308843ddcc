"""Docker: what containers are created with."""

from __future__ import annotations

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.runtimes.docker import container_options


@pytest.mark.parametrize(
    ("gpus", "environment", "expected"),
    [
        (None, {}, {"NVIDIA_VISIBLE_DEVICES": "all"}),
        (["1", "0"], {"CUDA_VISIBLE_DEVICES": "1,0"}, {"NVIDIA_VISIBLE_DEVICES": "1,0"}),
        (["GPU-7"], {"NVIDIA_VISIBLE_DEVICES": "all"}, {"NVIDIA_VISIBLE_DEVICES": "GPU-7"}),
        (None, {"NVIDIA_DRIVER_CAPABILITIES": "all", "A": "b"},
         {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all", "A": "b"}),
    ],
)  # fmt: skip
def test_a_container_is_given_the_declared_gpus_by_nvidia_s_runtime(
    gpus: list[str] | None, environment: dict[str, str], expected: dict[str, str]
) -> None:
    release = {"backend": "cuda"}
    config = {
        "local_url": "http://127.0.0.1:1", "port": 1, "gpus": gpus, "environment": environment, "uses_gpu": True,
        "release": release,
    }  # fmt: skip
    words = container_options(Instance.from_json(config))
    given = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "--env")
    assert given == {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", **expected}
    assert words[words.index("--runtime") + 1] == "nvidia"
    assert "--gpus" not in words
    for other in ({"uses_gpu": False}, {"release": {"backend": "cpu"}}):
        words = container_options(Instance.from_json({**config, **other, "environment": {}}))
        assert ("--runtime" in words, "--env" in words) == (False, False)
