"""A host of the container engine."""

from __future__ import annotations

import subprocess

from plugins.module_utils.nvidia import facts as nvidia_facts


def test_the_system_is_the_one_that_it_says_it_is() -> None:
    said = subprocess.run(
        ["sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID"], capture_output=True, text=True, check=True
    )
    found = nvidia_facts.os_release()
    assert f"{found['ID']} {found.get('VERSION_ID', '')}".strip() == said.stdout.strip()
