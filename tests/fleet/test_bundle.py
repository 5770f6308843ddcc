"""A bundle: written where there is a network, and deployed where there is none, to a host without a way out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.fleet import bundle, bundling
from tests import pin
from tests.bed import Bed, Host, inventory
from tests.conftest import ROOT, ansible, changed, said
from tests.roles.file_server import serve

NOWHERE = "http://127.0.0.1:9"
OFFLINE = {
    "HF_ENDPOINT": NOWHERE, "PIP_INDEX_URL": NOWHERE, "http_proxy": NOWHERE, "https_proxy": NOWHERE, "HF_TOKEN": "",
}  # fmt: skip


@dataclass(frozen=True)
class Airgap:
    """A host without a way out, its inventory, and the bundle that was made for it."""

    host: Host
    inventory: Path
    bundle: Path
    folder: Path
    said: str

    def deploy(self, *options: str, bundle: Path | None = None, check: bool = True) -> str:
        """Deploy from the bundle, with caches of another controller's, and nothing in reach."""
        given = ["-e", f"bundle={bundle or self.bundle}", "-e", "ansible_become=false"]
        command = ["deploy.yml", "-i", str(self.inventory), "-l", "lonely", *given, *options]
        return ansible(*command, check=check, XDG_CACHE_HOME=str(self.folder / "other"), **OFFLINE).stdout


@pytest.fixture(scope="module")
def airgap(bed: Bed, release: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airgap]:
    folder = tmp_path_factory.mktemp("airgap")
    with tarfile.open(folder / "binaries.tar", "w") as archive:
        archive.add(release / "bin", f"llama-{pin.REF}")
    digest = hashlib.sha256((folder / "binaries.tar").read_bytes()).hexdigest()
    variables: dict[str, Any] = {
        "llama_cpp_source": "binary", "llama_cpp_require_gpu": False, "llama_cpp_build_host": "localhost",
        "llama_cpp_binaries": [{"url": str(folder / "binaries.tar"), "sha256": digest}],
        "llama_models": {"far": {"repo": "some/repo", "file": "far.gguf"}},
        "llama_server_instances": {
            "main": {"model": "far", "port": 8600, "ctx_size": 1024, "parallel": 1, "threads": 1}
        },
    }  # fmt: skip
    with bed.host("plain", "lonely") as host, serve() as hub:
        host.container.reload()
        pid = str(host.container.attrs["State"]["Pid"])
        subprocess.run(["nsenter", "-t", pid, "-n", "ip", "route", "del", "default"], check=True)
        host.exec("sh", "-c", f"printf '[global]\nindex-url = {NOWHERE}\n' >/etc/pip.conf")
        hub.repositories["some/repo"] = {"far.gguf": small_model.read_bytes()}
        listed = inventory(host, groups={"gpu-hosts": [host]})
        listed["all"]["hosts"]["lonely"] |= variables
        listed["all"]["hosts"]["localhost"] = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
            "llama_nexus_prefix": str(folder / "prefix"), "ansible_become": False,
        }  # fmt: skip
        place = folder / "inventory"
        place.mkdir()
        (place / "hosts.json").write_text(json.dumps(listed))
        (place / "group_vars").symlink_to(ROOT / "group_vars")
        environment = {
            **os.environ, "NEXUS_INVENTORY": str(place), "HF_ENDPOINT": hub.url,
            "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "120", "TERM": "dumb",
        }  # fmt: skip

        def run(*options: str) -> str:
            command = ["bundle", str(folder / "rig.bundle"), "-l", "lonely", *options]
            done = subprocess.run(
                [sys.executable, "-m", "nexus_tasks.models", *command],
                cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        checked = run("--check")
        assert not (folder / "rig.bundle").exists()
        assert not list((folder / "cache").rglob("*.gguf"))
        made = run()
        asked = len(hub.asked)
        run()  # what was fetched is there
        assert len(hub.asked) == asked
        hub.repositories.clear()
        shutil.rmtree(folder / "cache")
        shutil.rmtree(folder / "prefix")
        (folder / "binaries.tar").unlink()
        yield Airgap(host, place, folder / "rig.bundle", folder, checked + made)


def test_a_host_without_a_way_out_is_deployed_from_a_bundle(airgap: Airgap) -> None:
    assert "model    far" in airgap.said
    assert airgap.host.exec("ls", "-A", "/opt", check=False).stdout == ""  # making it left nothing there
    checked = airgap.deploy("--check")
    assert changed(checked) > 0
    assert airgap.host.exec("ls", "-A", "/opt", check=False).stdout == ""
    airgap.deploy()
    answer = airgap.host.exec("curl", "-s", "http://127.0.0.1:8600/props", check=False).stdout
    assert "far" in answer
    assert changed(airgap.deploy()) == 0
    left = airgap.host.exec(
        "find", "/opt/llama-nexus", "-name", "*.tar", "-o", "-name", "*.partial", "-o", "-name", "*.whl"
    )
    assert left.stdout == ""


def test_a_bundle_that_is_damaged_or_of_another_fleet_is_refused_in_one_line(airgap: Airgap, tmp_path: Path) -> None:
    content = bytearray(airgap.bundle.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(content)
    shutil.rmtree(airgap.folder / "other", ignore_errors=True)
    assert "is damaged: " in said(airgap.deploy(bundle=damaged, check=False))
    own = json.dumps({"llama_own_models": {"own": {"repo": "a/b", "file": "c.gguf"}},
                      "llama_server_instances": {"main": {"model": "own", "port": 8600}}})  # fmt: skip
    assert "the bundle lacks own, which lonely needs: it has far" in said(airgap.deploy("-e", own, check=False))
    assert "this host needs the release" in said(airgap.deploy("-e", "llama_cpp_ref=b1", check=False))


IMAGE_PLAY = [
    {
        "hosts": "crates", "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "llama_server", "tasks_from": "base_image"}}],
    }
]  # fmt: skip


def test_the_base_image_of_containers_is_brought_along(bed: Bed, tmp_path: Path) -> None:
    tag = bed.image("base")
    packed = bundling._image(tmp_path, tag)
    file = tmp_path / "rig.bundle"
    about = bundle.About(made_at="", hosts=["crates"], models=[], releases=[], image=tag)
    bundle.write(file, about, [packed])
    folder, _ = bundle.open_(file, tmp_path / "opened")
    with bed.host("engine", "crates") as host:
        assert host.exec("docker", "image", "inspect", tag, check=False).returncode != 0
        variables = {
            "llama_server_docker_image": {"base": tag}, "llama_nexus_prefix": "/srv",
            "llama_server_docker_base_archive": str(folder / f"images/{bundle.image_file(tag)}"),
        }  # fmt: skip
        (tmp_path / "hosts.json").write_text(json.dumps(host.inventory(**variables)))
        (tmp_path / "play.yml").write_text(json.dumps(IMAGE_PLAY))
        counts = [changed(ansible(tmp_path / "play.yml", "-i", tmp_path / "hosts.json").stdout) for _ in range(2)]
        assert counts[0] > 0
        assert counts[1] == 0
        host.exec("docker", "image", "inspect", tag)
        assert host.exec("find", "/srv", "-name", ".base-image*").stdout == ""
