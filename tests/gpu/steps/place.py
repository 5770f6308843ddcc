"""The folders of a check, what is declared there, and what a step needs of the steps before it."""

from __future__ import annotations

import getpass
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.nvidia import facts as nvidia_facts
from tests.conftest import ROOT, free_port
from tests.gpu.rows import NotRun

# 1.8 GiB in F16: a token is a good part of a millisecond of a fast GPU's memory, as it is for a model that people use.
LARGE = tiny_model.Shape(n_layer=16, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192)
SMALL = tiny_model.Shape(n_layer=4, n_embd=128, n_head=4, n_head_kv=2, n_ff=384)
LARGE_LOAD, SMALL_LOAD = (512, 256, 5), (16, 64, 2)  # tokens of prompt and answer, repetitions
MODEL = "gpu-check-babble"


@dataclass(frozen=True)
class Place:
    """The folders of a check, and what is declared there."""

    work: Path
    pack: Path
    small: bool

    @property
    def prefix(self) -> Path:
        return self.work / "prefix"

    @property
    def model(self) -> Path:
        return self.work / f"{MODEL}{'-small' if self.small else ''}.gguf"

    @property
    def shape(self) -> tiny_model.Shape:
        return SMALL if self.small else LARGE

    @property
    def load(self) -> tuple[int, int, int]:
        return SMALL_LOAD if self.small else LARGE_LOAD

    @property
    def details(self) -> Path:
        """What is kept beside the rows."""
        folder = self.work / "details"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def release(self) -> Path:
        """The release that was built. Raises NotRun where none was."""
        current = self.prefix / "current"
        if not current.exists():
            raise NotRun("there is no release: see the step build")
        return current.resolve()

    @property
    def server(self) -> Path:
        return self.release / "bin/llama-server"

    @cached_property
    def gpus(self) -> list[dict[str, Any]]:
        """Those that the driver shows, as the roles see them."""
        gpus: list[dict[str, Any]] = nvidia_facts.driver_gpus()[0]
        return gpus

    @property
    def instance(self) -> dict[str, Any]:
        """What is declared: every layer on the GPU, where there is one."""
        port = self.work / "port"
        if not port.exists():
            port.write_text(str(free_port()))
        declared: dict[str, Any] = {"model": MODEL, "port": int(port.read_text()), "ctx_size": 4096, "parallel": 1}
        if self.gpus:
            declared |= {"n_gpu_layers": 999, "fit": "off"}
        if self.small:
            declared |= {"threads": 1}  # two that wait for each other make a busy machine stand still
        return declared

    def declare(self, **more: Any) -> dict[str, Any]:
        """Write the inventory: the repository's, with the places of this check. What was written."""
        inventory = self.work / "inventory"
        (inventory / "host_vars").mkdir(parents=True, exist_ok=True)
        for name, target in (("hosts.yml", ROOT / "inventory/hosts.yml"), ("group_vars", ROOT / "group_vars")):
            if not (inventory / name).is_symlink():
                (inventory / name).symlink_to(target)
        pack = json.loads((self.pack / "pack.json").read_text())
        own = {
            "llama_nexus_prefix": str(self.prefix),
            "llama_server_user": getpass.getuser(),  # others can't enter these folders
            "llama_nexus_tools": str(self.work / "env"),  # has supervisor already
            "llama_cpp_source": "archive",
            "llama_cpp_archive": str(self.pack / "llama.cpp.tar.xz"),
            "llama_cpp_archive_sha256": pack["files"]["llama.cpp.tar.xz"]["sha256"],
            "llama_cpp_require_gpu": bool(self.gpus),
            "llama_cpp_fa_quants": ["f16-f16"],  # each further pair is minutes of a compiler
            "llama_models": {MODEL: {"path": str(self.model)}},
            "llama_server_instances": {"main": self.instance},
            **more,
        }
        (inventory / "host_vars/localhost.yml").write_text(yaml.safe_dump(own))
        return own


def require_gpu(place: Place) -> None:
    if not place.gpus:
        raise NotRun("the driver shows no GPU here")


def require_model(place: Place) -> None:
    if not place.model.exists():
        raise NotRun("there is no model: see the step model")
    _ = place.release


def instance_log(place: Place) -> str:
    path = place.prefix / "logs/main.log"
    if not (place.prefix / "instances/main/verified").exists() or not path.exists():
        raise NotRun("the server was not deployed: see the step deploy")
    return path.read_text(errors="replace")
