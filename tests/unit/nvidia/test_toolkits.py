"""CUDA toolkits: which one fits GPUs, driver and system."""

from __future__ import annotations

import pytest

from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.systems import system_of
from plugins.module_utils.nvidia.toolkits import TOOLKITS, check_toolkit, toolkit_for, toolkit_packages
from tests.unit.nvidia.hosts import GPUS, RELEASES


@pytest.mark.parametrize(
    ("names", "driver_version", "toolkit"),
    [
        (["V100"], "580.95.05", "12.9"),
        (["V100"], "550.163.01", "12.9"),
        (["V100", "L4"], "580.95.05", "12.9"),
        (["P40"], "535.261.03", "12.9"),
        (["T4"], "580.95.05", "13.2"),
        (["L4"], "570.211.01", "12.9"),
        (["H100"], "595.71.05", "13.2"),
        (["B200"], "570.211.01", "12.9"),
        (["B300"], "580.95.05", "13.2"),
        (["DGX Spark"], "580.95.05", "13.2"),
        (["A100", "B300", "DGX Spark"], "580.95.05", "13.2"),
        (["V100", "B300"], None, "12.9"),
    ],
)
def test_the_toolkit_compiles_for_all_gpus_what_their_driver_runs(
    names: list[str], driver_version: str | None, toolkit: str
) -> None:
    architectures = [GPUS[name][1].replace(".", "") for name in names]
    assert toolkit_for(architectures, driver_version) == toolkit


@pytest.mark.parametrize(
    ("toolkit", "architecture", "driver_version", "message"),
    [
        ("13.0", "70", "580.95.05", "CUDA 13.0 can't compile for compute capability 70 any more, the last .* is 12.9"),
        ("12.4", "120", "580.95.05", "CUDA 12.4 can't compile for compute capability 120, which needs 12.8"),
        ("12.8", "103", "580.95.05", "compute capability 103, which needs 12.9"),
        ("13.0", "89", "570.211.01", "driver 570.211.01 is too old for CUDA 13.0, which needs 580 or newer"),
        ("12.9", "89", "470.256.02", "driver 470.256.02 is too old for CUDA 12.9, which needs 525 or newer"),
        ("12.9", "44", None, "compute capability 44 is none that is known"),
        ("13", "89", None, "write its version with one dot"),
    ],
)
def test_a_toolkit_that_does_not_fit_is_refused(
    toolkit: str, architecture: str, driver_version: str | None, message: str
) -> None:
    with pytest.raises(NvidiaError, match=message):
        check_toolkit(toolkit, [architecture], driver_version)


def test_the_packages_of_a_toolkit_bring_no_driver() -> None:
    assert toolkit_packages(system_of(RELEASES["Ubuntu 24.04"]), "12.9") == (
        "cuda-nvcc-12-9", "cuda-cudart-dev-12-9", "libcublas-dev-12-9", "cuda-cccl-12-9",
    )  # fmt: skip
    assert toolkit_packages(system_of(RELEASES["AlmaLinux 10"]), "13.2") == (
        "cuda-nvcc-13-2", "cuda-cudart-devel-13-2", "libcublas-devel-13-2", "cuda-cccl-13-2",
    )  # fmt: skip


@pytest.mark.parametrize("system", ["Debian 13", "AlmaLinux 10"])
def test_a_toolkit_that_a_system_does_not_have_is_refused_with_what_to_do(system: str) -> None:
    with pytest.raises(NvidiaError, match=r"begins with CUDA 13\..*llama_cpp_build_host.*by hand"):
        toolkit_packages(system_of(RELEASES[system]), "12.9")


@pytest.mark.parametrize("system", ["Ubuntu 22.04", "Ubuntu 24.04", "Debian 12", "Rocky 9"])
def test_every_other_system_has_both_toolkits(system: str) -> None:
    for toolkit in TOOLKITS:
        assert toolkit_packages(system_of(RELEASES[system]), toolkit)
