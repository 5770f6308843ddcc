"""Role container_engine on a host that has none: Debian's own Docker, and a stand-in for NVIDIA's toolkit.

The packages of the toolkit come from a signed repository as NVIDIA's does. Its runtime edits the container as that one
would, and puts in a program nvidia-smi that is linked with the C library: what it says is what a container really sees.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed, Host
from tests.bed.engine import connect, is_root
from tests.bed.fixtures import refuse
from tests.conftest import ansible, changed, said
from tests.fakes.apt_repository import AptRepository
from tests.fakes.gpus import LIBRARY, FakeGpus, Gpu
from tests.fleet.targets import Target, target

OWN: dict[str, Any] = {
    "storage-driver": "overlay2",
    "log-opts": {"max-size": "7m"},
    "runtimes": {"mine": {"path": "/usr/bin/runc"}},
}
DAEMON = "/etc/docker/daemon.json"
PROGRAM = "/usr/bin/nvidia-container-runtime"
STATE = "/var/lib/llama-nexus/container_engine.json"
SERVER = "http://127.0.0.1:8000"

RUNTIME = r'''#!/usr/bin/python3
"""Does with a container what NVIDIA's runtime does: what the environment asks for is put into it. Then it is runc."""
import json, os, subprocess, sys

words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path, encoding="utf-8") as stream:
        config = json.load(stream)
    asked = dict(entry.partition("=")[::2] for entry in config["process"]["env"]).get("NVIDIA_VISIBLE_DEVICES", "")
    lines = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.splitlines()
    named = [(f"GPU {word}:", f"UUID: {word})") for word in asked.split(",")]
    given = [line for line in lines if asked == "all" or any(a in line or b in line for a, b in named)]
    if asked and not given:
        with open(words[words.index("--log") + 1], "a", encoding="utf-8") as stream:
            json.dump({"level": "error", "msg": f"unresolvable CDI devices management.nvidia.com/gpu={asked}"}, stream)
        sys.exit(1)
    if asked:
        list_ = os.path.join(os.path.dirname(path), "gpus")
        with open(list_, "w", encoding="utf-8") as stream:
            stream.writelines(f"GPU {number}:{line.partition(':')[2]}\n" for number, line in enumerate(given))
        for source, place in (("/opt/mirror/nvidia-smi", "/usr/bin/nvidia-smi"), (list_, "/etc/gpus")):
            config["mounts"].append(
                {"source": source, "destination": place, "type": "bind", "options": ["rbind", "ro"]}
            )
        # Inside, the chosen ones are all that there are.
        config["process"]["env"].append(
            "CUDA_VISIBLE_DEVICES=" + ",".join(line.partition("UUID: ")[2].rstrip(")") for line in given)
        )
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(config, stream)
os.execvp("runc", ["runc", *words])
'''

NVIDIA_SMI = """
#include <math.h>
#include <stdio.h>
int main(int count, char **words) {
    char line[512];
    FILE *list = fopen("/etc/gpus", "r");
    if (!list || fmod(count, 7) > 6) return 9;
    while (fgets(line, sizeof line, list)) fputs(line, stdout);
    return 0;
}
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> AptRepository:
    """The toolkit in two versions, the older of which must be replaced; below a folder like NVIDIA's, with the key."""
    missing = [program for program in ("gpg", "dpkg-deb", "cc") if shutil.which(program) is None]
    if missing:
        refuse(f"a repository of packages needs {', '.join(missing)} (apt-get install gnupg gcc)", root=is_root())
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "nvidia-smi.c").write_text(NVIDIA_SMI)
    subprocess.run(["cc", "-o", folder / "nvidia-smi", folder / "nvidia-smi.c", "-lm"], check=True)
    made = AptRepository(folder / "stable" / "deb" / "amd64", label="a mirror", key="../../../gpgkey")
    for version in ("1.17.8", "1.18.2"):
        exact, least = f"(= {version}-1)", f"(>= {version}-1)"
        needs = f"nvidia-container-toolkit-base {exact}, libnvidia-container-tools {least}"
        made.add("libnvidia-container1", f"{version}-1")
        made.add("libnvidia-container-tools", f"{version}-1", depends=f"libnvidia-container1 {least}")
        made.add("nvidia-container-toolkit-base", f"{version}-1", {PROGRAM: RUNTIME})
        made.add("nvidia-container-toolkit", f"{version}-1", depends=needs)
    made.publish()
    return made


@dataclass
class Rig:
    """The host, and the role that runs on it."""

    target: Target
    folder: Path
    variables: dict[str, object]
    gpus: FakeGpus
    image: str
    """One that the engine has once it runs."""

    @property
    def host(self) -> Host:
        return self.target.host

    def run(self, *arguments: str, check: bool = True, **variables: object) -> str:
        """Run the role and return what Ansible printed."""
        inventory, play = self.folder / "hosts.json", self.folder / "play.yml"
        inventory.write_text(json.dumps(self.host.inventory(**{**self.variables, **variables})))
        play.write_text("- hosts: all\n  gather_facts: false\n  roles: [container_engine]\n")
        return ansible(play, "-i", inventory, *arguments, check=check).stdout

    def refused(self, **variables: object) -> str:
        return said(self.run(check=False, **variables))

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.host.exec(
            "sh", "-c", f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} >{path}; chmod {mode} {path}"
        )

    def packages(self) -> dict[str, str]:
        """What is installed, by name its version."""
        listed = self.host.exec("dpkg-query", "--show", "--showformat=${Package} ${Version}\n").stdout
        return dict(line.split() for line in listed.splitlines() if " " in line)

    def docker(self, *words: str) -> str:
        return self.host.exec("docker", *words).stdout.strip()

    def untouched(self) -> bool:
        """Whether nothing was installed, configured or written."""
        strange = ("/etc/apt/keyrings", "/etc/apt/sources.list.d", "/etc/apt/preferences.d", STATE, "/usr/bin/docker")
        there = self.host.exec("find", *strange, "-type", "f", check=False).stdout
        return there == "" and json.loads(self.target.read(DAEMON)) == OWN


@pytest.fixture(scope="module")
def bare(
    bed: Bed, mirror: AptRepository, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """A host with two GPUs and without an engine; somebody left a daemon.json there."""
    folder = tmp_path_factory.mktemp("rig")
    gpus = FakeGpus.make(folder / "gpus", None, [Gpu(), Gpu()])
    image = bed.image("base")
    save(image, folder / "images")
    with target(
        bed, "systemd", "rig", release, models, folder,
        mounts={mirror.folder.parents[2]: "/opt/mirror", gpus.folder: "/opt/gpus", folder / "images": "/opt/images"},
        tmpfs={"/var/lib/docker": "2g"},
    ) as made:  # fmt: skip
        made.host.exec("systemd-run", "--quiet", "python3", "-m", "http.server", "--directory", "/opt/mirror", "8000")
        # The bus of the machine that the tests run on.
        made.host.exec("mount", "-t", "tmpfs", "none", "/sys/bus/pci/devices", check=False)
        made.host.exec("ln", "-s", "/opt/gpus/nvidia-smi", "/usr/bin/nvidia-smi")
        rig = Rig(made, folder, {
            "container_engine_toolkit_url": f"{SERVER}/stable",
            "container_engine_toolkit_key_fingerprint": mirror.fingerprint,
        }, gpus, image)  # fmt: skip
        rig.write(DAEMON, json.dumps(OWN))
        rig.write("/etc/apt/apt.conf.d/95direct", 'Acquire::http::Proxy::127.0.0.1 "DIRECT";\n')
        yield rig


def save(image: str, folder: Path) -> None:
    """Write an image of this machine's engine to a file."""
    folder.mkdir()
    client = connect()
    assert client
    with contextlib.closing(client), (folder / "image.tar").open("wb") as stream:
        stream.writelines(client.images.get(image).save(named=image))


@pytest.fixture(scope="module")
def first_run(bare: Rig) -> str:
    """What Ansible said of the run that installed it all."""
    output = bare.run()
    bare.docker("load", "--quiet", "--input", "/opt/images/image.tar")
    return output


@pytest.fixture
def rig(bare: Rig, first_run: str) -> Iterator[Rig]:
    """The host with an engine that was seen to hand out GPUs; whatever a test does to the runtime is undone."""
    assert changed(first_run)
    program = bare.target.read(PROGRAM)
    yield bare
    bare.write(PROGRAM, program, "755")


# --- a host without an engine --------------------------------------------------------------------------------------


def test_on_a_bare_host_check_mode_says_what_would_be_done_and_does_nothing(bare: Rig) -> None:
    output = bare.run("--check")
    assert changed(output) == 1
    for step in (
        "install docker.io", f"add the repository {SERVER}/stable/deb/amd64",
        "install nvidia-container-toolkit 1.18.2 or newer", f"add the runtime nvidia to {DAEMON}",
        "check that a container is given a GPU",
    ):  # fmt: skip
        assert step in output
    assert bare.untouched()


def test_without_a_gpu_the_toolkit_is_left_out_and_that_is_said(bare: Rig) -> None:
    bare.gpus.set(smi_status=9)
    try:
        output = bare.run("--check")
    finally:
        bare.gpus.set()
    assert "there is no NVIDIA GPU on this host: nvidia-container-toolkit is left out" in output
    assert "install docker.io" in output
    assert "repository" not in output


def test_a_key_with_another_fingerprint_is_not_trusted(bare: Rig, mirror: AptRepository) -> None:
    message = bare.refused(container_engine_toolkit_key_fingerprint="")
    assert f"{SERVER}/gpgkey holds key {mirror.fingerprint}, not C95B321B61E88C1809C4F759DDCAE044F796ECB0" in message
    assert bare.untouched()


def test_a_daemon_json_that_the_engine_could_not_read_is_refused_by_name(bare: Rig) -> None:
    bare.write(DAEMON, '{"debug": true,}')
    try:
        message = bare.refused()
        assert f"{DAEMON} is not valid JSON" in message
        assert bare.target.read(DAEMON) == '{"debug": true,}'
    finally:
        bare.write(DAEMON, json.dumps(OWN))
    assert bare.untouched()


# --- a host that has got one ---------------------------------------------------------------------------------------


def test_a_container_is_given_the_gpu_that_it_is_to_have(rig: Rig) -> None:
    for gpu in rig.gpus.uuids:
        listed = rig.docker(
            "run", "--rm", "--runtime", "nvidia", "--env", f"NVIDIA_VISIBLE_DEVICES={gpu}", rig.image,
            "nvidia-smi", "-L",
        )  # fmt: skip
        assert listed == f"GPU 0: NVIDIA L4 (UUID: {gpu})"
    seen = json.loads(rig.target.read(STATE))
    assert (seen["gpus"], seen["toolkit"]) == (rig.gpus.uuids, "1.18.2")


def test_the_engine_keeps_the_settings_that_were_there(rig: Rig) -> None:
    settings = json.loads(rig.target.read(DAEMON))
    nvidia = {"args": [], "path": "nvidia-container-runtime"}
    assert settings == {**OWN, "runtimes": {**OWN["runtimes"], "nvidia": nvidia}}
    assert rig.host.exec("systemctl", "is-enabled", "docker").stdout == "enabled\n"


def test_a_second_run_changes_nothing_and_leaves_no_image(rig: Rig) -> None:
    output = rig.run()
    assert changed(output) == 0
    assert "ok=2 " in output  # the arguments, and one look
    assert changed(rig.run("--check")) == 0
    assert rig.docker("ps", "--all", "--quiet") == ""
    assert rig.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split() == [rig.image]


def test_an_older_toolkit_is_replaced_and_looked_at_again(rig: Rig) -> None:
    rig.host.exec("sh", "-c", "dpkg --install /opt/mirror/stable/deb/amd64/*_1.17.8-1_all.deb")
    output = rig.run()
    assert "install nvidia-container-toolkit 1.18.2 or newer in place of 1.17.8" in output
    assert {version for name, version in rig.packages().items() if "nvidia-container" in name} == {"1.18.2-1"}
    assert changed(rig.run()) == 0


def test_an_engine_that_runs_learns_of_the_runtime_while_its_containers_run_on(rig: Rig) -> None:
    rig.write(DAEMON, json.dumps(OWN))
    rig.host.exec("systemctl", "restart", "docker")
    rig.docker("run", "--detach", "--name", "other", rig.image, "sleep", "1d")
    state = "{{.State.StartedAt}} {{.State.Running}}"
    before = rig.docker("inspect", "--format", state, "other")
    try:
        output = rig.run()
        assert f"add the runtime nvidia to {DAEMON} and have docker read it again" in output
        assert changed(output)
        assert rig.docker("inspect", "--format", state, "other") == before
        assert before.endswith("true")
        assert "nvidia" in rig.docker("info", "--format", "{{json .Runtimes}}")
    finally:
        rig.docker("rm", "--force", "other")


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param('#!/bin/sh\nexec runc "$@"\n', "the runtime nvidia ran and added nothing", id="adds-nothing"),
        pytest.param(None, "docker can't find nvidia-container-runtime", id="is-gone"),
    ],
)
def test_a_runtime_that_hands_out_nothing_is_found_with_its_cause(rig: Rig, script: str | None, cause: str) -> None:
    rig.host.exec("rm", "-f", STATE, PROGRAM)
    if script:
        rig.write(PROGRAM, script, "755")
    message = rig.refused()
    assert "a container is not given a GPU: " in message
    assert cause in message
    assert rig.docker("ps", "--all", "--quiet") == ""
    assert rig.host.exec("test", "-e", STATE, check=False).returncode  # so the next run looks again


def test_a_container_that_sees_more_than_its_gpu_is_an_error(rig: Rig) -> None:
    rig.host.exec("rm", "-f", STATE)
    rig.host.exec("sed", "-i", 's/, "")$/, "") and "all"/', PROGRAM)
    message = rig.refused()
    first, last = rig.gpus.uuids
    assert f"a container that should be given {last} sees {first}, {last}" in message


def test_an_installation_that_was_cut_off_is_finished(rig: Rig) -> None:
    rig.host.exec("rm", "-f", STATE)
    rig.host.exec("dpkg", "--purge", "nvidia-container-toolkit", "nvidia-container-toolkit-base")
    rig.host.exec("dpkg", "--unpack", "/opt/mirror/stable/deb/amd64/nvidia-container-toolkit-base_1.18.2-1_all.deb")
    journal = "dpkg-query --status nvidia-container-toolkit-base >/var/lib/dpkg/updates/0001"
    rig.host.exec("sh", "-c", journal)
    output = rig.run()
    assert "finish the installation that dpkg was interrupted in" in output
    assert rig.host.exec("dpkg", "--audit").stdout == ""


# --- what it is for ------------------------------------------------------------------------------------------------


def test_a_server_in_a_container_is_proven_to_be_on_the_gpu_that_it_was_given(
    rig: Rig, release: Path, gpu_backend: Path, tmp_path: Path
) -> None:
    gpus = replace(rig.gpus, built=gpu_backend)
    shutil.copy(gpu_backend / LIBRARY, gpus.library)
    built = gpus.release(tmp_path, release)
    backend = built / "bin" / LIBRARY
    backend.unlink()
    shutil.copy(gpu_backend / LIBRARY, backend)  # the image holds files only
    shutil.copy(gpus.folder / "gpus.conf", backend.parent)
    path = f"{rig.target.prefix}/releases/{built.name}"
    rig.host.put(built, path)
    manifest = json.loads((built / "manifest.json").read_text())
    instance = {
        "model": "tiny", "port": 8600, "ctx_size": 1024, "parallel": 1, "n_gpu_layers": 99, "gpus": ["1"],
        "runtime": "docker",
    }  # fmt: skip
    declared = {
        "llama_server_docker_image": {"base": rig.image},
        "llama_cpp_release": {"name": built.name, "path": path, "manifest": manifest},
    }
    rig.target.deploy({"main": instance}, **declared)
    proof = json.loads(rig.target.read(f"{rig.target.folder('main')}/proof.json"))
    assert proof["offloaded"][0] == proof["offloaded"][1]
    assert set(proof["gpu_processes_mib"]) == {gpus.uuids[1]}
    rig.host.exec("systemctl", "daemon-reload")
    assert changed(rig.target.play("tests/roles/llama_server.yml")) == 0
