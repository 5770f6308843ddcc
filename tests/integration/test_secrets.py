"""A key, from its declaration to everything that a deployment, a benchmark and a report leave behind."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, ansible, free_port

KEY = "open-0b9f2c7a-sesame"
ROTATED = "shut-91d4e6f0-sesame"


class Owner:
    """Somebody who deploys an instance with a key of the environment, and keeps everything that is printed."""

    def __init__(self, folder: Path, release: Path) -> None:
        self.folder = folder
        self.printed: list[str] = []
        inventory = folder / "inventory"
        (inventory / "host_vars").mkdir(parents=True)
        (inventory / "hosts.yml").symlink_to(ROOT / "inventory" / "hosts.yml")
        (inventory / "group_vars").symlink_to(ROOT / "group_vars")
        keys = {"ops": "{{ lookup('ansible.builtin.env', 'OPS_KEY') }}", "app": "another-0b9f2c-key"}
        sizes = {"ctx_size": 2048, "parallel": 1, "threads": 1}
        main = {"model": "tiny-babble", "port": free_port(), "api_keys": keys, **sizes}
        own = {
            "llama_nexus_prefix": str(folder / "prefix"),
            "llama_server_user": getpass.getuser(),  # others can't enter these folders
            "llama_cpp_prefix": str(release.parent.parent),
            "llama_server_instances": {"main": main},
        }
        (inventory / "host_vars" / "localhost.yml").write_text(yaml.safe_dump(own))
        self.environment: dict[str, Any] = {
            "ANSIBLE_INVENTORY": str(inventory), "NEXUS_INVENTORY": str(inventory),
            "NEXUS_RESULTS": str(folder / "results"), "OPS_KEY": KEY,
            "ANSIBLE_ASYNC_DIR": str(folder / "async"), "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        }  # fmt: skip

    def runs(self, module: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> None:
        """Run a task module, which must end with one of these."""
        done = subprocess.run(
            [sys.executable, "-m", f"nexus_tasks.{module}", *arguments],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in statuses, done.stdout
        self.printed.append(done.stdout)

    def deploys(self, *arguments: str) -> None:
        """Run deploy.yml as talkative as it can be."""
        self.printed.append(
            ansible("deploy.yml", "-l", "local", "-vvv", "--diff", *arguments, **self.environment).stdout
        )


@pytest.fixture(scope="module")
def owner(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """Has deployed, rotated, looked at, measured and reported."""
    owner = Owner(tmp_path_factory.mktemp("owner"), release)
    owner.deploys("--check")
    owner.deploys()
    owner.environment["OPS_KEY"] = ROTATED
    owner.deploys("--check")
    owner.runs("deploy", "-l", "local", "-vvv", "--diff")
    owner.runs("control", "status", "local", "--json")
    owner.runs("control", "logs", "local")
    owner.runs(
        "benchmark", "local", "--preset", "quick", "--requests", "1", statuses=(0, 1)
    )  # 1 on a machine too busy to measure
    owner.runs("report")
    yield owner
    owner.runs("control", "stop", "local")


@pytest.mark.parametrize("key", [KEY, ROTATED])
def test_a_key_is_printed_by_nothing(owner: Owner, key: str) -> None:
    assert [text for text in owner.printed if key in text] == []
    assert len(owner.printed) >= 8


@pytest.mark.parametrize("key", [KEY, ROTATED])
def test_a_key_stands_in_no_command_line_and_no_environment(owner: Owner, key: str) -> None:
    seen = []
    for process in Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                text = (process / what).read_bytes()
            except OSError:
                continue
            if key.encode() in text and process.name != str(os.getpid()):
                seen.append(f"{process.name} {what}")
    assert seen == []


@pytest.mark.parametrize("key", [KEY, ROTATED])
def test_a_key_stands_in_no_file_but_the_closed_ones_of_its_instance(owner: Owner, key: str) -> None:
    places = [path for path in owner.folder.rglob("*") if path.is_file() and path.suffix not in (".gguf", ".so")]
    assert {path.suffix for path in places} >= {".jsonl", ".html", ".ipynb", ".log", ".json"}  # all that leaves traces
    found = {path for path in places if not path.is_symlink() and key.encode() in path.read_bytes()}
    instance = owner.folder / "prefix/instances/main"
    link = {KEY: "previous", ROTATED: "verified"}[key]
    generation = instance / (instance / link).readlink()
    assert {path.resolve() for path in found} == {generation / "keys"}
    assert (generation / "keys").stat().st_mode & 0o777 == 0o600
