"""Placement: what a log says is that of the process that is proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Server
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.placement import prove_router_placement
from plugins.module_utils.llama_server.proof.subject import Subject
from plugins.module_utils.llama_server.runtimes.base import Status

ROUTER_LOG = """\
0.02.19 I srv          load: spawning server instance with name=big on port 8080
[ 8080] 0.00.05 I load_tensors: offloaded 9/99 layers to GPU
[ 8080] 0.00.05 I load_tensors:        CUDA0 model buffer size =  9000.00 MiB
0.09.19 I srv          load: spawning server instance with name=other on port 58080
[58080] 0.00.05 I load_tensors:        CUDA0 model buffer size =   100.00 MiB
1.02.19 I srv          load: spawning server instance with name=small on port 8080
[ 8080] 0.00.05 I load_tensors: offloaded 13/13 layers to GPU
[ 8080] 0.00.05 I load_tensors:        CUDA0 model buffer size =    70.00 MiB
"""


def test_a_port_that_another_model_of_a_router_had_before_says_nothing_of_this_one(tmp_path: Path) -> None:
    class Router:
        def status(self, name: str) -> Status:
            return Status("running", 1, "1")

        def log(self, name: str, lines: int | None = None) -> list[str]:
            return ROUTER_LOG.splitlines()

        def where_log(self, name: str) -> str:
            return "here"

    model = {"uses_gpu": False}
    config = Instance.from_json(
        {"name": "main", "id": "0", "uses_gpu": False, "models": {"small": model, "big": model}}
    )
    row: dict[str, Any] = {"placements": {}, "buffers_mib": {}}
    folder, runtime = Folder(str(tmp_path), "main"), Router()
    status = runtime.status("main")
    subject = Subject(config, {}, runtime, folder, Server(config, None), status, Checks(), row)
    prove_router_placement(subject, {"small": ["--port", "8080"]}, {"small"})
    assert row["buffers_mib"] == {"CUDA0": {"model": 70.0}}
    assert [found["offloaded"] for found in row["placements"].values()] == [[13, 13]]
