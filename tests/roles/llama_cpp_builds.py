"""Builds of a small tree that has the shape of llama.cpp's: by the module as Ansible calls it, and by the role."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import modules
from tests.conftest import BIN, ROOT, cache_folder
from tests.fakes.gpus import Gpu
from tests.roles.llama_cpp_tree import Tree

MODULE = ROOT / "plugins/modules/llama_cpp_release.py"
UNPINNED = "c" * 40
COMPILERS = {"c++", "g++", "clang++"}
GPUS = [Gpu("NVIDIA L4", "8.9", 23034), Gpu("NVIDIA RTX A4000", "8.6", 16376)]
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n"


def executable(path: Path, content: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def path_without(folder: Path, *names: str) -> str:
    """A PATH of one folder that holds all programs of this machine but these (and sudo)."""
    folder.mkdir(parents=True)
    for source in os.get_exec_path():
        with contextlib.suppress(OSError):  # a folder of PATH need not exist
            for program in Path(source).iterdir():
                if program.name not in {*names, "sudo"} and not os.path.lexists(folder / program.name):
                    (folder / program.name).symlink_to(program)
    return str(folder)


def unshare(*options: str) -> list[str] | None:
    """The command that runs another one in a user namespace, None where there are none."""
    command = [shutil.which("unshare") or "unshare", "--user", *options, "--"]
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
            return command
    return None


def request(prefix: Path, source: dict[str, str], **options: Any) -> str:
    """What the module is asked; options of the recipe by their names, others with a leading ``_``."""
    recipe = {
        "ref": "b1",
        "commit": UNPINNED,
        "source": source,
        "backend": "cpu",
        "targets": ["llama-server"],
        **{key: value for key, value in options.items() if not key.startswith("_")},
    }
    arguments = {
        "prefix": str(prefix),
        "recipe": recipe,
        "tools_path": str(cache_folder() / "tools/bin"),
        **{key.removeprefix("_"): value for key, value in options.items() if key.startswith("_")},
    }
    return json.dumps({"ANSIBLE_MODULE_ARGS": arguments})


def module(prefix: Path, source: dict[str, str], path: str | None = None, **options: Any) -> dict[str, Any]:
    """Call the module, with another PATH where one is given."""
    done = subprocess.run(
        modules.command(MODULE),
        input=request(prefix, source, **options),
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("failed"):
        assert "\n" not in result["msg"]
    return result


def refusal(*args: Any, **options: Any) -> str:
    """The message of a call that must fail."""
    result = module(*args, **options)
    assert result.get("failed"), result
    return str(result["msg"])


@contextlib.contextmanager
def started(prefix: Path, source: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A call of the module that goes on in the background."""
    with subprocess.Popen(modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(request(prefix, source, **options))
        process.stdin.flush()
        process.stdin.close()
        process.stdin = None  # else communicate() would flush it
        yield process


def finish(process: subprocess.Popen[str]) -> str:
    """The output of a command in the background, which must come to its end."""
    try:
        return process.communicate(timeout=180)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a call in the background ends with."""
    result: dict[str, Any] = json.loads(finish(process))
    return result


def archive(tree: Tree) -> dict[str, str]:
    """The small tree as source."""
    return {"kind": "archive", "url": str(tree.archive), "sha256": tree.sha256}


def left(prefix: Path) -> list[str]:
    """The names of the releases, half ones too."""
    return sorted(path.name for path in (prefix / "releases").glob("*"))


@dataclass(frozen=True)
class Host:
    """How the role went on one host."""

    changed: int
    failed: bool
    msg: str
    release: dict[str, Any]


def play_command(folder: Path, hosts: dict[str, dict[str, Any]]) -> list[str | Path]:
    """The command that runs the role on these hosts, all of them this machine."""
    for name, variables in hosts.items():
        variables.setdefault("llama_nexus_prefix", str(folder / name))
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_nexus_tools": str(cache_folder() / "tools"),
        "llama_nexus_jobs": "{{ llama_nexus_prefix }}/jobs",
        "llama_cpp_ref": "b1",
        "llama_cpp_commit": UNPINNED,
        "llama_cpp_targets": ["llama-server"],
        "llama_cpp_backend": "cpu",
    }
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    return [BIN / "ansible-playbook", "-i", inventory, ROOT / "tests/roles/llama_cpp.yml"]


def play_environment() -> dict[str, str]:
    """The environment of such a command: its output ends with a report as JSON."""
    return {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_NOCOLOR": "1"}


def read_report(stdout: str) -> dict[str, Host]:
    """How it went, by host."""
    report = json.loads(("\n" + stdout).partition("\n{\n")[2].join(["{\n", ""]))
    hosts = {}
    for host, stats in report["stats"].items():
        results = [task["hosts"][host] for task in report["plays"][0]["tasks"] if host in task["hosts"]]
        failed = [str(result.get("msg", result)) for result in results if result.get("failed")]
        facts = [
            result["ansible_facts"] for result in results if "llama_cpp_release" in result.get("ansible_facts", {})
        ]
        release = facts[0]["llama_cpp_release"] if facts else {}
        hosts[host] = Host(stats["changed"], bool(stats["failures"]), failed[-1] if failed else "", release)
    return hosts


def play(folder: Path, hosts: dict[str, dict[str, Any]], *options: str) -> dict[str, Host]:
    """Run the role on all hosts at once."""
    done = subprocess.run(
        [*play_command(folder, hosts), *options], cwd=ROOT, env=play_environment(), stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    return read_report(done.stdout)


def from_archive(tree: Tree, **variables: Any) -> dict[str, Any]:
    """A host's variables."""
    return {
        "llama_cpp_source": "archive",
        "llama_cpp_archive": str(tree.archive),
        "llama_cpp_archive_sha256": tree.sha256,
        **variables,
    }
