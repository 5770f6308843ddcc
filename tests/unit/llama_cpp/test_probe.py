"""What would be built on a host."""

from __future__ import annotations

import pytest

from plugins.module_utils.llama_cpp import probe
from plugins.module_utils.llama_cpp.errors import ReleaseError
from plugins.module_utils.nvidia import facts as nvidia_facts
from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.toolkits import TOOLKITS


def test_in_check_mode_the_gpus_on_the_bus_say_what_would_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = nvidia_facts.Seen(
        bus=[{"name": "NVIDIA AD104", "compute_cap": "8.9", "driver": None}], problem="it has none"
    )
    recipe = {"require_gpu": True, "backend": "auto", "cuda_architectures": [], "cuda_toolkit": "", "portable": False}
    monkeypatch.setattr(nvidia_facts, "look", lambda: bare)
    found = probe.find_gpus(recipe, "rig", check_mode=True)
    assert probe.choose_backend(recipe, found) == "cuda"
    assert probe.choose_architectures(recipe, found, "rig") == ["89"]
    assert probe.choose_toolkit(recipe, ["89"], found, {}) == TOOLKITS[0]
    with pytest.raises(ReleaseError, match="no working NVIDIA GPU on rig: it has none; or set llama_cpp_req"):
        probe.find_gpus(recipe, "rig", check_mode=False)
    bare.bus[0]["compute_cap"] = None  # a GPU that is not known
    with pytest.raises(ReleaseError, match="no working NVIDIA GPU on rig"):
        probe.find_gpus(recipe, "rig", check_mode=True)


def test_the_first_toolkit_that_fits_is_taken_and_else_one_that_can_be_installed() -> None:

    def chosen(architecture: str, driver: str, here: dict[str, str], wanted: str = "", portable: bool = False) -> str:
        recipe = {"cuda_toolkit": wanted, "portable": portable}
        return probe.choose_toolkit(recipe, [architecture], [{"driver": driver}], here)

    there = {"12.4": "/on/path", "13.0": "/usr/local/cuda"}
    assert chosen("89", "580.95.05", there) == "12.4"
    assert chosen("120", "580.95.05", there) == "13.0"
    assert chosen("120", "570.10", there) == "12.9"  # the driver runs nothing of 13
    assert chosen("70", "580.95.05", {"13.0": "/usr/local/cuda"}) == "12.9"
    assert chosen("89", "580.95.05", there, portable=True) == "13.2"
    with pytest.raises(NvidiaError, match=r"CUDA 13\.2 can't compile for compute capability 70 any more"):
        chosen("70", "580.95.05", there, wanted="13.2")
