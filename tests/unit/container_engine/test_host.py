"""A host of the container engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.container_engine import host as host_utils
from plugins.module_utils.hostlib import processes
from plugins.module_utils.nvidia import host as nvidia_host


def test_the_image_of_the_check_holds_what_a_program_is_linked_with() -> None:
    names = {Path(path).name for path in host_utils._libraries()}
    assert names >= {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
    assert any(name.startswith("ld-linux") for name in names)
    assert not any("nvidia" in name for name in names)


def test_an_engine_that_does_not_take_the_image_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(argv: list[str], *, timeout: float, **options: Any) -> processes.Finished:
        raise processes.TookTooLong(argv, timeout)

    monkeypatch.setattr(host_utils, "_libraries", set)
    monkeypatch.setattr(processes, "run", late)
    with pytest.raises(
        host_utils.EngineError, match=r"^docker can't make an image: docker import --change did not end"
    ):
        host_utils.image_of_host()


def test_the_system_is_the_one_that_it_says_it_is() -> None:
    said = subprocess.run(
        ["sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID"], capture_output=True, text=True, check=True
    )
    found = nvidia_host.os_release()
    assert f"{found['ID']} {found.get('VERSION_ID', '')}".strip() == said.stdout.strip()
