"""The launcher: which generation it becomes, and when it does not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, wait_for


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
