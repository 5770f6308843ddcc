"""Two versions of llama.cpp on one host: side by side, from one to the other and back, each checked against itself."""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import pin
from tests.conftest import ansible, changed, free_port, one_thread, said

EARLIER = "b11312-0c1e57098"
KEY = "sesame-0b9f2c-opens"


@dataclass
class Host:
    """A prefix of this machine."""

    prefix: Path
    variables: dict[str, Any]

    def deploy(self, release: Path, instances: dict[str, Any], *, check: bool = True, **variables: Any) -> str:
        """Run the role with a release, and return what Ansible printed."""
        manifest = json.loads((release / "manifest.json").read_text())
        fact = {"name": release.name, "path": str(release), "manifest": manifest}
        given = {**self.variables, "llama_cpp_release": fact, "llama_server_instances": one_thread(instances)}
        options = json.dumps({**given, **variables})
        return ansible("tests/roles/llama_server.yml", "-l", "local", "-e", options, check=check).stdout

    def play(self, name: str) -> str:
        """Run a playbook for all that is deployed."""
        return ansible(f"playbooks/{name}.yml", "-l", "local", "-e", json.dumps(self.variables)).stdout


@pytest.fixture
def host(small_model: Path, tmp_path: Path) -> Iterator[Host]:
    model = {
        "path": str(small_model), "size_bytes": small_model.stat().st_size,
        "sha256": hashlib.sha256(small_model.read_bytes()).hexdigest(),
    }  # fmt: skip
    variables = {
        "llama_nexus_prefix": str(tmp_path / "prefix"),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_models": {"tiny": {"path": model["path"]}},
        "gguf_model_files": {"tiny": model},
    }
    found = Host(tmp_path / "prefix", variables)
    yield found
    found.play("stop")


def build_of(port: int) -> str:
    """The build that answers on a port."""
    return str(httpx.get(f"http://127.0.0.1:{port}/props").json()["build_info"])


def test_a_host_goes_to_the_new_version_and_back_and_each_instance_keeps_its_own(
    host: Host, release: Path, earlier_release: Path
) -> None:
    port, other = free_port(), free_port()
    main = {"model": "tiny", "port": port, "ctx_size": 512}
    assert "b11312 has CVE-2026-107183 (critical: " in host.deploy(earlier_release, {"main": main})
    assert build_of(port) == EARLIER
    assert "b11312" in (status := host.play("status"))
    assert "it has CVE-2026-107183 (critical: " in " ".join(status.split())

    # A second instance of the new version, beside the first, which is not declared for it.
    assert "CVE-2026-107183" not in host.deploy(release, {"other": {**main, "port": other}})
    assert (build_of(port), build_of(other)) == (EARLIER, pin.BUILD_INFO)

    both = {"main": main, "other": {**main, "port": other}}
    assert changed(host.deploy(release, both)) > 0
    assert (build_of(port), build_of(other)) == (pin.BUILD_INFO, pin.BUILD_INFO)
    assert changed(host.deploy(release, both)) == 0
    assert "CVE-2026-107183" not in host.play("status")

    host.play("rollback")  # of `main`: there is nothing earlier for the other
    assert (build_of(port), build_of(other)) == (EARLIER, pin.BUILD_INFO)


def test_what_an_earlier_version_does_not_know_is_refused_for_it_alone(
    host: Host, release: Path, earlier_release: Path
) -> None:
    flag = "--spec-draft-sampling"  # of b11434
    port = free_port()
    new = {"main": {"model": "tiny", "port": port, "ctx_size": 512, "extra_args": [flag, "greedy"]}}
    output = said(host.deploy(earlier_release, new, check=False))
    assert f"extra_args hold {flag}, which llama-server of release {earlier_release.name} does not know: " in output
    assert not (host.prefix / "instances").exists()
    assert changed(host.deploy(release, new)) > 0
    output = said(host.deploy(earlier_release, new, check=False))
    assert f"extra_args hold {flag}, which llama-server of release {earlier_release.name} does not know: " in output
    assert build_of(port) == pin.BUILD_INFO


def test_a_severe_vulnerability_of_a_hosts_own_release_keeps_it_from_strangers(
    host: Host, earlier_release: Path
) -> None:
    port = free_port()
    open_ = {"main": {"model": "tiny", "port": port, "ctx_size": 512, "host": "0.0.0.0", "api_keys": {"ops": KEY}}}  # noqa: S104 - what is refused
    output = said(host.deploy(earlier_release, open_, check=False))
    assert "instance main on localhost: llama.cpp b11312 has CVE-2026-107183 (critical: " in output
    assert "set llama_cpp_accept_advisories: [CVE-2026-107183]" in output
    assert KEY not in output
    assert not (host.prefix / "instances").exists()
    host.deploy(earlier_release, open_, llama_cpp_accept_advisories=["CVE-2026-107183"])
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == httpx.codes.OK
