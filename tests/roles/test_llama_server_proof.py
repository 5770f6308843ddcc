"""The proof against a real llama-server whose declaration says something else, and what it reads of logs and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.proof.kept import keep
from plugins.module_utils.llama_server.proof.prove import prove as prove_server
from plugins.module_utils.llama_server.runtimes.base import Status
from plugins.module_utils.llama_server.sockets import holder, listeners
from tests import pin
from tests.conftest import RunningServer

WANTED = {"start_timeout": 10, "tokens": 8, "min_decode_tps": None, "max_regression": None}


class Keeper:
    """A runtime that says what a test server's process says; nothing else of a runtime is needed for a proof."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def status(self, name: str) -> Status:
        return Status("running", self.server.process.pid, "1")

    def log(self, name: str, lines: int | None = None) -> list[str]:
        return self.server.log.read_text().splitlines()

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        return [self.log(name)]

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
        row = prove_server(
            Instance.from_json({**true, **changes}), {**WANTED, **(wanted or {})}, Keeper(server), folder
        )
        return dict(row)

    return prove


def test_a_server_that_is_as_declared_is_proven(prove: Prove) -> None:
    row = prove()
    assert row["error"] is None
    assert {check["check"] for check in row["checks"]} >= {
        "command line", "listens", "model sha256", "model id", "model file", "build", "slots", "context per slot",
        "prompt", "completion", "tokens generated",
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
    assert holder(listeners("127.0.0.1", int(server.base_url.rpartition(":")[2]))) == server.process.pid
