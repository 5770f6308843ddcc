"""The launcher: which generation it becomes, and when it does not."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from plugins.module_utils.llama_server.runtimes.base import Settings
from plugins.module_utils.llama_server.runtimes.supervisor import Supervisor
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


def test_what_the_server_could_write_does_not_run_in_the_next_launcher(tmp_path: Path) -> None:
    unit = (ROOT / "roles/llama_server/templates/llama-server@.service.j2").read_text()
    [command] = re.findall(r"^ExecStart=(.*) \{\{", unit, re.MULTILINE)
    sections = Supervisor(Settings(str(tmp_path), str(tmp_path), "nobody", "/usr/bin/python3"))._configuration("main")
    [section] = re.findall(r"^command = (.*)$", sections, re.MULTILINE)
    launch(tmp_path / "main", (ROOT / "roles/llama_server/files/launch.py").read_text(), uses_gpu=False).communicate()
    (tmp_path / "main/started").symlink_to(".")

    ask = "import site; print(site.getusersitepackages())"
    environment = {**os.environ, "HOME": str(tmp_path)}
    told = subprocess.run(["/usr/bin/python3", "-c", ask], env=environment, capture_output=True, text=True, check=True)
    packages = Path(told.stdout.strip())
    packages.mkdir(parents=True)
    (packages / "usercustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    environment["PYTHONPATH"] = str(packages)

    by_unit = command.replace("@PYTHON@", "/usr/bin/python3").replace("@GENERATION@", str(tmp_path / "main"))
    for argv in ([*by_unit.split(), str(tmp_path / "main")], shlex.split(section)):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "main", done.stderr
        assert not (tmp_path / "ran").exists()
    subprocess.run([word for word in shlex.split(section) if word != "-I"], env=environment, check=True)
    assert (tmp_path / "ran").exists()  # what this is about
    assert re.findall(r"HOME=(\S+)", unit) == ["/nonexistent"]
