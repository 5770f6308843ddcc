"""The check with a container that is given a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.container_engine import gpu_check
from plugins.module_utils.container_engine.engine import EngineError
from plugins.module_utils.hostlib import programs


def test_the_image_of_the_check_holds_what_a_program_is_linked_with() -> None:
    names = {Path(path).name for path in gpu_check._libraries()}
    assert names >= {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
    assert any(name.startswith("ld-linux") for name in names)
    assert not any("nvidia" in name for name in names)


def test_an_engine_that_does_not_take_the_image_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(argv: list[str], *, timeout: float, **options: Any) -> programs.Finished:
        raise programs.TookTooLong(argv, timeout)

    monkeypatch.setattr(gpu_check, "_libraries", set)
    monkeypatch.setattr(programs, "run", late)
    with pytest.raises(EngineError, match=r"^docker can't make an image: docker import --change did not end"):
        gpu_check.image_of_host()
