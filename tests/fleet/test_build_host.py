"""A release that one host makes and another takes, as it is with real hosts: ssh, users with sudo, --limit."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import pin
from tests.bed import Bed, Host, inventory
from tests.conftest import ROOT, ansible, changed

SHELF = "/srv/shelf"


@pytest.fixture(scope="module")
def shelf(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real release as upstream would pack it, so that no host needs a compiler."""
    folder = tmp_path_factory.mktemp("shelf")
    with tarfile.open(folder / "binaries.tar", "w") as archive:
        archive.add(release / "bin", f"llama-{pin.REF}")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def hosts(bed: Bed, shelf: Path) -> Iterator[list[Host]]:
    """One that builds, and one that takes; whoever logs in is not root."""
    made = bed.hosts("systemd", ["foundry", "rig"], mounts={shelf: SHELF}, user="ops", sudo=True)
    try:
        for host in made:  # as hardened hosts have it; sudo keeps it
            host.exec("sh", "-c", "echo 'session required pam_umask.so umask=0077' >>/etc/pam.d/sshd")
            host.exec("sh", "-c", "echo 'Defaults umask=0077, umask_override' >/etc/sudoers.d/umask")
            assert host.ssh("umask").stdout.strip() == "0077"
            assert host.ssh("sudo", "sh", "-c", "umask").stdout.strip() == "0077"
        yield made
    finally:
        for host in made:
            host.remove()


def build(
    hosts: list[Host], folder: Path, shelf: Path, *options: str, check: bool = True, then: Sequence[str] = (),
    **variables: Any,
) -> str:  # fmt: skip
    """Run playbooks/build.yml, and then others, for the host that takes; what was printed."""
    foundry, rig = hosts
    archive = shelf / "binaries.tar"
    variables = {
        "ansible_become": True,
        "llama_cpp_source": "binary",
        "llama_cpp_binaries": [
            {"url": f"{SHELF}/{archive.name}", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
        ],
        "llama_cpp_require_gpu": False,
        **variables,
    }
    (folder / "inventory").mkdir(exist_ok=True)
    listed = inventory(foundry, rig, groups={"gpu-hosts": [rig]})
    controller = variables.pop("controller", {})
    listed["all"]["hosts"]["localhost"] = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, **controller
    }  # fmt: skip
    listed["all"]["hosts"]["rig"] |= variables
    # The host that builds has folders of its own, and becomes root by itself.
    listed["all"]["hosts"]["foundry"] |= {"llama_nexus_prefix": "/srv/foundry", "ansible_become": True}
    (folder / "inventory/hosts.json").write_text(json.dumps(listed))
    if not (folder / "inventory/group_vars").exists():
        (folder / "inventory/group_vars").symlink_to(ROOT / "group_vars")
    command = ["playbooks/build.yml", *then, "-i", str(folder / "inventory"), "-l", "gpu-hosts", *options]
    return ansible(*command, check=check).stdout


@pytest.fixture(scope="module")
def taken(hosts: list[Host], shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The first run: how many tasks changed something."""
    return changed(build(hosts, tmp_path_factory.mktemp("taken"), shelf, llama_cpp_build_host="foundry"))


def test_a_host_takes_what_another_one_outside_the_limit_has_made(
    hosts: list[Host], taken: int, shelf: Path, tmp_path: Path
) -> None:
    foundry, rig = hosts
    assert taken > 0
    made = foundry.exec("ls", "-A", "/srv/foundry/releases").stdout.split()
    assert len(made) == 1
    assert rig.exec("ls", "-A", "/opt/llama-nexus/releases").stdout.split() == made
    assert rig.exec("readlink", "/opt/llama-nexus/current").stdout.strip() == f"/opt/llama-nexus/releases/{made[0]}"
    version = rig.exec("sh", "-c", "/opt/llama-nexus/current/bin/llama-server --version 2>&1").stdout
    assert f"(build {pin.REF[1:]}, commit {pin.COMMIT[:9]})" in version
    owner = rig.exec("stat", "--format", "%U %a", "/opt/llama-nexus/current/bin/llama-server").stdout.strip()
    assert owner == "root 755"
    assert changed(build(hosts, tmp_path, shelf, llama_cpp_build_host="foundry")) == 0


@pytest.mark.usefixtures("taken")
def test_the_servers_user_gets_at_all_that_it_needs_whatever_the_umask(
    hosts: list[Host], shelf: Path, small_model: Path, tmp_path: Path
) -> None:
    foundry, rig = hosts
    shutil.copy(small_model, shelf / "model.gguf")
    rig.exec("systemd-run", "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", SHELF, "8099")
    digest = hashlib.sha256(small_model.read_bytes()).hexdigest()
    serve = ["playbooks/model.yml", "playbooks/serve.yml"]
    instances = {"main": {"model": "fetched", "port": 8600, "ctx_size": 2048, "parallel": 1, "threads": 1}}
    build(
        hosts, tmp_path, shelf, then=serve, llama_cpp_build_host="foundry", llama_server_instances=instances,
        llama_models={"fetched": {"url": "http://127.0.0.1:8099/model.gguf", "sha256": digest}},
    )  # fmt: skip
    [user] = set(rig.exec("ps", "-C", "llama-server", "-o", "user=").stdout.split())
    assert user == "llama-server"
    # The jobs of both have a folder of their own, which is closed, and are done with.
    for host, prefix in ((foundry, "/srv/foundry"), (rig, "/opt/llama-nexus")):
        assert host.exec("stat", "--format", "%U %a", "/run/llama-nexus/jobs").stdout.strip() == "root 700"
        assert host.exec("ls", "-A", "/run/llama-nexus/jobs").stdout == ""
        assert host.exec("find", "/root", "/home", "-name", ".ansible*").stdout == ""
        closed = ["!", "-perm", "-055"]
        assert host.exec("find", prefix, "-type", "d", *closed).stdout == ""


@pytest.mark.usefixtures("taken")
def test_what_was_cut_short_on_the_way_is_taken_up_again(hosts: list[Host], shelf: Path, tmp_path: Path) -> None:
    _, rig = hosts
    [name] = rig.exec("ls", "-A", "/opt/llama-nexus/releases").stdout.split()
    rig.exec("sh", "-c", "cd /opt/llama-nexus/releases && mv * .half && mkdir .partial && echo cut >.name.tar")
    build(hosts, tmp_path, shelf, llama_cpp_build_host="foundry")
    assert name in rig.exec("ls", "/opt/llama-nexus/releases").stdout.split()


def test_the_controller_may_build_for_others(hosts: list[Host], shelf: Path, tmp_path: Path) -> None:
    _, rig = hosts
    archive = shelf / "binaries.tar"
    prefix = tmp_path / "prefix"
    output = build(
        hosts,
        tmp_path,
        shelf,
        llama_cpp_build_host="localhost",
        llama_cpp_binaries=[{"url": str(archive), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}],
        controller={"llama_nexus_prefix": str(prefix)},
    )
    assert changed(output) > 0
    [name] = [path.name for path in (prefix / "releases").iterdir()]
    assert rig.exec("readlink", "/opt/llama-nexus/current").stdout.strip() == f"/opt/llama-nexus/releases/{name}"
