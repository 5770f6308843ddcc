"""Memory of processes on GPUs, as drivers tell it, or don't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugins.module_utils.llama_server import gpus

PIDS = {"OURS": os.getpid(), "OTHERS": os.getppid(), "GONE": 2**22 + 1}  # workers collect the same names of tests


@pytest.mark.parametrize(
    ("apps", "used", "foreign", "mib", "why"),
    [
        ("OURS, GPU-1, 80\nOTHERS, GPU-1, 500", "580", False, {"GPU-1": 80.0}, ""),
        ("OURS, GPU-1, 80\nOURS, GPU-2, 20", "100", False, {"GPU-1": 80.0, "GPU-2": 20.0}, ""),
        ("OTHERS, GPU-1, 500", "500", False, {}, ""),  # it is not on a GPU
        ("OTHERS, GPU-1, 500", "500", True, {}, ""),  # nor here, where others of this system are seen
        ("", "2", False, {}, ""),  # there is no memory that could be its own
        ("", "500", False, None, "not reported by this driver, which lists no processes"),  # a vGPU
        ("", "[N/A]", False, None, "not reported by this driver, which lists no processes"),
        ("", "2", True, None, "nvidia-smi lists no processes of this system"),  # a container, or WSL
        ("GONE, GPU-1, [N/A]", "500", True, None, "nvidia-smi lists no processes of this system"),
        ("OURS, GPU-1, [N/A]", "500", False, None, "not reported by this driver ([N/A]), as under WSL"),
        ("OURS, GPU-1, [Not Supported]", "500", False, None, "not reported by this driver ([Not Supported])"),
        ("OURS, GPU-1, [N/A]\nOURS, GPU-2, 90", "500", False, {"GPU-1": 0.0, "GPU-2": 90.0}, ""),
        ("Failed to initialize NVML", "0", False, None, "nvidia-smi does not tell: Failed to initialize NVML"),
    ],
)
def test_what_the_driver_does_not_report_is_not_taken_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apps: str, used: str, foreign: bool,
    mib: dict[str, float] | None, why: str,
) -> None:  # fmt: skip
    for name, pid in PIDS.items():
        apps = apps.replace(name, str(pid))
    (tmp_path / "apps").write_text(apps)
    (tmp_path / "nvidia-smi").write_text(
        f'#!/bin/sh\ncase "$1" in --query-gpu*) echo "0, GPU-1, {used}";; *) cat "{tmp_path}/apps";; esac\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gpus, "FOREIGN_MARKS", (str(tmp_path),) if foreign else ())
    held = gpus.held_memory({PIDS["OURS"]}, 72.0)
    assert held.mib == mib
    assert held.why.startswith(why)


@pytest.mark.parametrize(
    ("cells", "chosen", "free"),
    [(("100", "50"), None, 150.0), (("100", "[N/A]"), None, None), (("100", "[N/A]"), ["0"], 100.0)],
)
def test_free_memory_is_unknown_where_one_gpu_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: tuple[str, str], chosen: list[str] | None,
    free: float | None,
) -> None:  # fmt: skip
    (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\necho "0, GPU-1, {cells[0]}"\necho "1, GPU-2, {cells[1]}"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus.free_memory(chosen) == free
