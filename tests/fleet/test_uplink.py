"""Three hosts behind one uplink: a model crosses it once, as the server at its other end counts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed, Host, inventory
from tests.conftest import ROOT, ansible
from tests.memory_models import write
from tests.support.known_models import small
from tests.support.nginx import Nginx, nginx

REPO = "some/repo-GGUF"
NAMES = ["left", "middle", "right"]


@pytest.fixture(scope="module")
def hosts(bed: Bed) -> Iterator[list[Host]]:
    made = bed.hosts("plain", NAMES)
    try:
        yield made
    finally:
        for host in made:
            host.remove()


@pytest.fixture(scope="module")
def uplink(hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Path]]:
    """A mirror at the address by which the hosts reach this machine."""
    folder = tmp_path_factory.mktemp("uplink")
    place = folder / "mirror" / REPO
    place.mkdir(parents=True)
    for name in ("shared", "pushed"):
        write(place / f"{name}.gguf", small(4096))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(place.glob("*.gguf"))]
    (place / "SHA256SUMS").write_text("".join(sums))
    [address] = {host.exec("sh", "-c", "ip -4 route show default | cut -d' ' -f3").stdout.strip() for host in hosts}
    with nginx(folder / "mirror", folder / "nginx", address=address) as server:
        yield server, folder


@pytest.mark.parametrize("way", ["shared", pytest.param("pushed", marks=pytest.mark.soak)])
def test_a_model_crosses_the_uplink_once_and_three_hosts_have_it(
    hosts: list[Host], uplink: tuple[Nginx, Path], tmp_path: Path, way: str
) -> None:
    server, folder = uplink
    listed = inventory(*hosts, groups={"gpu-hosts": hosts})
    variables: dict[str, Any] = {
        "llama_models": {"m": {"repo": REPO, "file": f"{way}.gguf"}},
        "gguf_model_mirror": server.url, "gguf_model_share": way == "shared", "gguf_model_push": way == "pushed",
        "llama_server_instances": {"main": {"model": "m", "port": 8600}}, "llama_nexus_prefix": f"/srv/{way}",
        "ansible_become": False, "gguf_model_controller_cache": str(tmp_path / "cache"),
    }  # fmt: skip
    for name in NAMES:
        listed["all"]["hosts"][name] |= variables
    listed["all"]["hosts"]["localhost"] = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
    }  # fmt: skip
    place = tmp_path / "inventory"
    place.mkdir()
    (place / "hosts.json").write_text(json.dumps(listed))
    (place / "group_vars").symlink_to(ROOT / "group_vars")
    ansible("playbooks/model.yml", "-i", place, "-l", "gpu-hosts")
    content = (folder / "mirror" / REPO / f"{way}.gguf").read_bytes()
    assert server.sent(f"/{REPO}/{way}.gguf") == len(content)
    digests = {host.exec("sha256sum", f"/srv/{way}/models/m.gguf").stdout.split()[0] for host in hosts}
    assert digests == {hashlib.sha256(content).hexdigest()}
    again = ansible("playbooks/model.yml", "-i", place, "-l", "gpu-hosts").stdout
    assert again.count("changed=0") == len(hosts)
    assert server.sent(f"/{REPO}/{way}.gguf") == len(content)
