"""NVIDIA's repositories."""

from __future__ import annotations

import pytest

from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.repositories import repository
from plugins.module_utils.nvidia.systems import system_of
from tests.unit.nvidia.hosts import RELEASES

REPOSITORIES = {
    ("Ubuntu 22.04", "x86_64"): "ubuntu2204/x86_64",
    ("Ubuntu 24.04", "aarch64"): "ubuntu2404/sbsa",
    ("Debian 12", "x86_64"): "debian12/x86_64",
    ("Debian 13", "aarch64"): "debian13/sbsa",
    ("Rocky 9", "x86_64"): "rhel9/x86_64",
    ("CentOS Stream 10", "aarch64"): "rhel10/sbsa",
}


@pytest.mark.parametrize(("system", "machine"), list(REPOSITORIES))
def test_each_system_has_a_folder_of_the_repository_or_its_mirror(system: str, machine: str) -> None:
    found = repository("https://mirror.example.com/cuda/", system_of(RELEASES[system]), machine)
    assert found == f"https://mirror.example.com/cuda/{REPOSITORIES[system, machine]}"


def test_a_password_in_the_address_of_the_repository_is_refused() -> None:
    system, url = system_of(RELEASES["Debian 12"]), "https://ada:sesame@mirror.example.com/cuda"
    with pytest.raises(NvidiaError, match="nvidia_driver_repository_url holds a password") as told:
        repository(url, system, "x86_64")
    assert "sesame" not in str(told.value)
