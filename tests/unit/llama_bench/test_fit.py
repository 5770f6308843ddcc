"""Memory of models, as a host's llama.cpp tells it; a script stands for that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib import gpus
from plugins.module_utils.hostlib.fit_params import FitError
from plugins.module_utils.llama_bench import fit
from tests import modules
from tests.conftest import ROOT


def params(folder: Path, figures: str) -> dict[str, Any]:
    """Parameters of the module, for a model in two files and a program that prints some figures."""
    (folder / "release" / "bin").mkdir(parents=True)
    program = folder / "release" / "bin" / "llama-fit-params"
    program.write_text(f"#!{sys.executable}\nprint({figures!r})\n")
    program.chmod(0o755)
    names = ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"]
    (folder / "headers" / "0").mkdir(parents=True)
    for name in names:
        (folder / "headers" / "0" / name).write_bytes(b"GGUF")
    files = [{"name": name, "size_bytes": 1 << 33} for name in names]
    models = [{"files": files, "words": ["-c", "4096"], "headers": "/elsewhere"}]
    return {
        "release": str(folder / "release"),
        "folder": str(folder / "headers"),
        "models": models,
        "user": "nobody-here",
    }


def test_figures_come_with_what_the_host_has_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "query", lambda fields: [{"memory.free": "8000"}, {"memory.free": "[N/A]"}])
    told = fit.memory_of(params(tmp_path, "CUDA0 1 2 3 \nHost 4 5 6 "))
    assert told["models"] == [[["CUDA0", 1, 2, 3], ["Host", 4, 5, 6]]]
    assert told["gpus_free_mib"] == [8000]
    assert told["host_free_mib"] > 100


def test_a_host_without_the_program_says_what_to_do(tmp_path: Path) -> None:
    given = {**params(tmp_path, ""), "release": str(tmp_path / "none")}
    with pytest.raises(FitError, match="deploy there first"):
        fit.memory_of(given)
    failed = modules.call(ROOT / "plugins/modules/llama_fit_params.py", given)
    assert "deploy there first" in failed["msg"]


def test_a_program_that_gives_no_figures_fails_the_module_in_one_line(tmp_path: Path) -> None:
    failed = modules.call(ROOT / "plugins/modules/llama_fit_params.py", params(tmp_path, "nothing"))
    assert failed["failed"]
    assert failed["msg"].startswith("llama-fit-params gives no figures")
