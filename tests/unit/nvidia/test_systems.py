"""Systems that NVIDIA's software is installed on."""

from __future__ import annotations

import re

import pytest

from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.systems import system_of


@pytest.mark.parametrize(
    "release",
    [
        {"ID": "fedora", "VERSION_ID": "42", "PRETTY_NAME": "Fedora Linux 42"},
        {"ID": "ubuntu", "VERSION_ID": "20.04", "PRETTY_NAME": "Ubuntu 20.04.6 LTS"},
        {"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian GNU/Linux 11 (bullseye)"},
        {"ID": "rocky", "VERSION_ID": "8.10", "PRETTY_NAME": "Rocky Linux 8.10"},
        {"ID": "arch", "PRETTY_NAME": "Arch Linux"},
    ],
    ids=lambda release: release["ID"],
)
def test_another_system_is_named_with_those_that_are_supported(release: dict[str, str]) -> None:
    with pytest.raises(NvidiaError, match=f"^{re.escape(release['PRETTY_NAME'])} is none of") as told:
        system_of(release)
    for name in ("Ubuntu 22.04 and 24.04", "Debian 12 and 13", "RHEL", "Rocky Linux", "9 and 10"):
        assert name in str(told.value)
