"""The proof against a real llama-server whose declaration says something else, and what it reads of logs and files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.input_tensors import input_mib
from plugins.module_utils.llama_server.proof.kept import keep
from plugins.module_utils.llama_server.proof.memory_log import placement
from plugins.module_utils.llama_server.proof.model_files import file_sha256
from plugins.module_utils.llama_server.proof.placement import prove_router_placement
from plugins.module_utils.llama_server.proof.prove import prove as prove_server
from plugins.module_utils.llama_server.runtimes.base import Status
from plugins.module_utils.llama_server.sockets import holder
from tests import pin
from tests.conftest import ROOT, RunningServer, wait_for

WANTED = {"start_timeout": 10, "tokens": 8, "min_decode_tps": None, "max_regression": None}


class Keeper:
    """A runtime that says what a test server's process says; nothing else of a runtime is needed for a proof."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def status(self, name: str) -> Status:
        return Status("running", self.server.process.pid, "1")

    def log(self, name: str, lines: int | None = None) -> list[str]:
        return self.server.log.read_text().splitlines()

    def where_log(self, name: str) -> str:
        return str(self.server.log)


Prove = Callable[..., dict[str, Any]]


@pytest.fixture
def prove(server: RunningServer, tmp_path: Path) -> Prove:
    """Prove the server of the tests against its true declaration with changes."""
    port = int(server.base_url.rpartition(":")[2])
    argv = Path(f"/proc/{server.process.pid}/cmdline").read_text().split("\0")[:-1]
    model = server.model
    true = {
        "name": "main", "id": "0", "folder": str(tmp_path), "key_file": None, "runtime": "supervisor", "argv": argv,
        "port": port, "local_url": server.base_url, "mode": "completion", "ctx_size": 4096, "parallel": 1,
        "n_gpu_layers": None, "uses_gpu": False, "models": {}, "side_models": [], "has_template": False,
        "model": {"name": "tiny", "path": str(model), "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
        "release": {"name": pin.REF, "commit": pin.COMMIT, "backend": "cpu"},
    }  # fmt: skip

    def prove(wanted: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        folder = Folder(str(tmp_path), "main")
        Path(folder.path).mkdir(exist_ok=True)
        row = prove_server({**true, **changes}, {**WANTED, **(wanted or {})}, Keeper(server), folder)
        return dict(row)

    return prove


def test_a_server_that_is_as_declared_is_proven(prove: Prove) -> None:
    row = prove()
    assert row["error"] is None
    assert {check["check"] for check in row["checks"]} >= {
        "command line", "listens", "model sha256", "model id", "model file", "build", "slots", "context per slot",
        "completion", "tokens generated",
    }  # fmt: skip
    assert row["tokens_per_second"] > 1
    assert row["n_ctx"] == 4096


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ctx_size": 32768}, "context per slot: expected 32768, found 4096 (it did not fit the memory"),
        ({"parallel": 4}, "slots: expected 4, found 1 (the server chose another number)"),
        ({"argv": ["llama-server"]}, "command line: expected ['llama-server'], found"),
        (
            {"release": {"name": "x", "commit": "f" * 40, "backend": "cpu"}},
            f"build: expected fffffffff, found {pin.REF}-",
        ),
        (
            {"uses_gpu": True, "n_gpu_layers": 99},
            "layers on the GPU: expected all, found none (the log has no line about it",
        ),
        ({"port": 9}, "it stopped answering"),
    ],
)
def test_what_is_not_as_declared_is_named_with_its_cause(prove: Prove, change: dict[str, Any], said: str) -> None:
    if "port" in change:
        change = {"local_url": "http://127.0.0.1:9"}
        said = "the server is not ready after 1 s (nothing answers): see the log"
        assert said in prove({"start_timeout": 1}, **change)["error"]
        return
    assert said in prove(**change)["error"]


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text("# ci\na-key-that-is-long-enough\n")
    path.chmod(0o600)
    return str(path)


def test_beside_another_command_line_it_is_said_what_that_did(prove: Prove, key_file: str) -> None:
    row = prove(argv=["llama-server"], key_file=key_file)
    assert "command line: expected ['llama-server'], found" in row["error"]
    assert "without a key: expected 401, found 200" in row["error"]
    assert row["restart"]


def test_another_model_is_named(prove: Prove, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    error = prove(model={"name": "gpt-oss", "path": str(other), "sha256": "0" * 64})["error"]
    assert "model sha256: expected 0000" in error
    assert "model id: expected ['gpt-oss'], found ['tiny'] (another server answers on the port)" in error
    assert f"model file: expected {other}, found " in error


def test_a_template_that_the_server_did_not_take_is_named(prove: Prove, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat template: expected the declared template, found another one" in prove(has_template=True)["error"]


def test_a_server_below_the_floor_is_too_slow(prove: Prove) -> None:
    row = prove({"min_decode_tps": 1e6})
    assert "decode speed: expected at least 1000000.0 tokens/s, found" in row["error"]
    assert prove({"min_decode_tps": 0.1})["error"] is None


def test_speed_is_compared_with_the_best_proof_of_the_same_model(prove: Prove, tmp_path: Path) -> None:
    row = prove()
    folder = Folder(str(tmp_path), "main")
    keep({**row, "tokens_per_second": 1e6}, folder)
    assert "the best so far, 1000000.0, less llama_server_max_regression" in prove({"max_regression": 0.5})["error"]
    keep({**row, "tokens_per_second": 5e5}, folder)  # a decline in small steps is no new measure
    assert json.loads(Path(folder.file("proof.json")).read_text())["best_tokens_per_second"] == 1e6
    keep({**row, "model": {**row["model"], "sha256": "0" * 64}}, folder)
    assert prove({"max_regression": 0.5})["error"] is None


def test_the_port_of_another_process_is_named(prove: Prove, server: RunningServer) -> None:
    assert holder("127.0.0.1", int(server.base_url.rpartition(":")[2])) == server.process.pid


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    first = file_sha256(str(tmp_path), str(file))
    assert first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(hashlib, "sha256", None)  # reading it again would need it
    assert file_sha256(str(tmp_path), str(file)) == first
    monkeypatch.undo()
    file.write_bytes(b"two")
    assert file_sha256(str(tmp_path), str(file)) == hashlib.sha256(b"two").hexdigest()


def test_the_span_of_the_input_is_read_from_the_header(tiny_model: Path) -> None:
    from gguf import GGUFReader

    tensors = GGUFReader(tiny_model).tensors
    (embedding,) = [tensor for tensor in tensors if tensor.name == "token_embd.weight"]
    assert input_mib(str(tiny_model)) == pytest.approx(embedding.n_bytes / 2**20, abs=32 / 2**20)


LOG = """\
0.00.068 I load_tensors: offloaded 25/25 layers to GPU
0.00.068 I load_tensors:   CPU_Mapped model buffer size =   379.71 MiB
0.00.068 I load_tensors:        CUDA0 model buffer size = 10694.15 MiB
0.00.061 I clip_ctx: CLIP using CUDA0 backend
0.00.069 I llama_context:  CUDA_Host  output buffer size =     0.77 MiB
0.00.069 I llama_kv_cache:      CUDA0 KV buffer size =  3000.00 MiB
0.00.069 I llama_kv_cache:      CUDA0 KV buffer size =    18.00 MiB
0.00.071 I sched_reserve:      CUDA0 compute buffer size =   398.38 MiB
0.00.072 I load_tensors: offloaded 3/3 layers to GPU
"""


def test_buffers_of_one_kind_are_added_up_by_device() -> None:
    offloaded, buffers, projector = placement(LOG.splitlines())
    assert projector == "CUDA0"
    assert offloaded == [25, 25]  # the second is a draft model's
    assert buffers == {
        "CPU_Mapped": {"model": 379.71},
        "CUDA0": {"model": 10694.15, "kv": 3018.0, "compute": 398.38},
        "CUDA_Host": {"compute": 0.77},
    }


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
    config = {"name": "main", "id": "0", "uses_gpu": False, "models": {"small": model, "big": model}}
    row: dict[str, Any] = {"placements": {}, "buffers_mib": {}}
    prove_router_placement(
        config, Router().status("main"), Router(), Folder(str(tmp_path), "main"),
        {"small": ["--port", "8080"]}, {"small"}, Checks(), row,
    )  # fmt: skip
    assert row["buffers_mib"] == {"CUDA0": {"model": 70.0}}
    assert [found["offloaded"] for found in row["placements"].values()] == [[13, 13]]


def launch(folder: Path, script: str, **instance: Any) -> subprocess.Popen[str]:
    """Run a launcher for an instance that would print its name."""
    generation = folder / "verified"
    generation.mkdir(parents=True)
    (folder / "launch.py").write_text(script)
    config = {
        "name": "main", "id": "0", "runtime": "systemd", "argv": ["/bin/echo", "main"], "environment": {},
        "release": {"backend": "cuda"}, "uses_gpu": True, **instance,
    }  # fmt: skip
    (generation / "instance.json").write_text(json.dumps(config))
    return subprocess.Popen(
        ["python3", folder / "launch.py", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_server_whose_gpu_appears_late_starts_over_where_the_sandbox_would_not_let_it_through(tmp_path: Path) -> None:
    script = (ROOT / "roles/llama_server/files/launch.py").read_text()
    # A file beside it tells that it has found them missing, and waits.
    script = script.replace("    late = True\n", '    late = True\n        open(folder + "/waits", "w").close()\n')
    nodes = [tmp_path / "nvidiactl", tmp_path / "nvidia-uvm"]
    for node in nodes:
        script = script.replace(f"/dev/{node.name}", str(node))
    early = [launch(tmp_path / runtime, script, runtime=runtime) for runtime in ("systemd", "supervisor")]
    for runtime in ("systemd", "supervisor"):
        wait_for((tmp_path / runtime / "waits").exists, "the launcher")
    assert [process.poll() for process in early] == [None, None]
    for node in nodes:
        node.touch()
    said = [process.communicate(timeout=60) for process in early]
    assert early[0].returncode == 1
    assert "the GPU has appeared; starting over" in said[0][1]
    assert said[1][0].splitlines()[-1] == "main"
    late = launch(tmp_path / "late", script)
    assert late.communicate(timeout=60)[0].splitlines()[-1] == "main"


def test_the_launcher_leaves_to_docker_what_is_in_a_container(tmp_path: Path) -> None:
    script = (ROOT / "roles/llama_server/files/launch.py").read_text()
    process = launch(tmp_path / "main", script, runtime="docker", uses_gpu=False)
    assert "main runs in a container: deploy again" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
