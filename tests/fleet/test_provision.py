"""playbooks/provision.yml on hosts with GPUs: apt, dpkg, systemd and reboots are real, kernel modules stand-ins."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed, Host, inventory
from tests.conftest import BIN, RESULTS, ROOT, ansible, changed, one_thread, said, wait_for
from tests.fakes.apt_repository import AptRepository
from tests.fakes.gpu_host import (
    BUS,
    KERNEL,
    REPOSITORY,
    TMPFS,
    equip,
    install_driver,
    write,
    write_bus,
    write_repository,
)  # fmt: skip

PLAYBOOK = "playbooks/provision.yml"
STATE = "/var/lib/llama-nexus/nvidia-driver.json"
MODELS, RELEASE = "/opt/models", "/opt/release"


class Rig:
    """A host with an L4, and its inventory."""

    def __init__(self, host: Host, folder: Path, repository: AptRepository, url: str = f"file://{REPOSITORY}") -> None:
        self.host = host
        self.inventory = folder / "inventory"
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(ROOT / "group_vars")
        settings = {
            "llama_nexus_prefix": "/opt/llama-nexus",
            "nvidia_driver_repository_url": url,
            "nvidia_driver_repository_fingerprint": repository.fingerprint,
        }
        (self.inventory / "hosts.json").write_text(json.dumps(inventory(host, groups={"gpu-hosts": [host]})))
        (self.inventory / "host_vars").mkdir()
        (self.inventory / "host_vars" / f"{host.name}.json").write_text(json.dumps(settings))

    def provision(self, *options: str, check: bool = True, **variables: Any) -> str:
        """Run the playbook; what it printed."""
        return ansible(PLAYBOOK, "-i", self.inventory, "-e", json.dumps(variables), *options, check=check).stdout

    def refused(self, **variables: Any) -> str:
        """Run the playbook, which must fail; what it said."""
        return said(self.provision(check=False, **variables))

    def versions(self, *patterns: str) -> dict[str, str]:
        """The installed packages."""
        shape = "${db:Status-Status} ${Package} ${Version}\n"
        told = self.host.exec("dpkg-query", "-W", "-f", shape, *patterns, check=False).stdout
        return dict(line.split()[1:] for line in told.splitlines() if line.startswith("installed "))

    @property
    def held(self) -> set[str]:
        return set(self.host.exec("apt-mark", "showhold").stdout.split())

    @property
    def phase(self) -> str:
        phase: str = json.loads(self.host.exec("cat", STATE).stdout)["phase"]
        return phase

    def smi(self) -> str:
        return self.host.exec("nvidia-smi").stdout.strip()

    def bare(self) -> None:
        """Take everything away that a run brought, and boot nouveau."""
        self.host.exec(
            "sh", "-c",
            "systemctl stop 'nvidia-*'; dpkg-query -W -f '${Package}\n' | grep -E "
            "'^(nvidia|cuda|libcublas|linux-headers)-' | xargs -r dpkg --purge --force-all >/dev/null; rm -rf "
            "/usr/bin/nvidia-smi "
            "/etc/modprobe.d/llama-nexus* /etc/modules-load.d/llama-nexus* /etc/apt/preferences.d/llama-nexus* "
            "/etc/apt/sources.list.d/llama-nexus* /etc/systemd/system/nvidia-* /var/lib/llama-nexus "
            "/etc/systemd/system/multi-user.target.wants/nvidia-* /lib/modules /etc/fake-kernel/* /usr/local/cuda-*; "
            "for name in nvidia_uvm nvidia; do modprobe -r $name; done; "
            "[ -d /sys/module/nouveau ] || modprobe nouveau; systemctl daemon-reload",
        )  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> AptRepository:
    folder = tmp_path_factory.mktemp("nvidia")
    folder.chmod(0o755)
    return write_repository(folder)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bus")
    write_bus(folder, {"0000:01:00.0": "0x27b8"})
    return folder


@pytest.fixture(scope="module")
def host(
    bed: Bed,
    repository: AptRepository,
    release: Path,
    models: dict[str, Path],
    bus: Path,
) -> Iterator[Host]:
    mounts = {
        bus: BUS, repository.folder.parent.parent: REPOSITORY, release: RELEASE, models["tiny"].parent: MODELS,
    }  # fmt: skip
    with bed.host("systemd", "rig", mounts=mounts, tmpfs=TMPFS) as host:
        equip(host)
        yield host


@pytest.fixture
def rig(host: Host, repository: AptRepository, tmp_path: Path) -> Rig:
    """The host, bare."""
    made = Rig(host, tmp_path, repository)
    made.bare()
    return made


def test_a_bare_host_gets_the_driver_pinned_held_loaded_and_proven_and_a_second_run_changes_nothing(rig: Rig) -> None:
    host = rig.host
    planned = rig.provision("--check")
    assert changed(planned) == 1
    for step in (
        "install driver 580 with open kernel modules from NVIDIA''s repository: nvidia-driver-pinning-580",
        f"add NVIDIA's repository file://{REPOSITORY}/debian12/x86_64", "hold the packages of branch 580",
        "load the driver, in place of nouveau",
    ):  # fmt: skip
        assert step in " ".join(planned.split())
    assert rig.versions("nvidia-*") == {}
    assert host.exec("find", "/etc", "/var/lib", "-name", "*llama-nexus*").stdout == ""

    assert changed(rig.provision()) == 1
    assert rig.versions("nvidia-*") == {
        "nvidia-driver-pinning-580": "580-1", "nvidia-driver-cuda": "580.95.05-1",
        "nvidia-kernel-open-dkms": "580.95.05-1", "nvidia-persistenced": "580.95.05-1",
    }  # fmt: skip
    assert {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"} <= rig.held
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert not host.exec("ls", "/sys/module").stdout.count("nouveau")
    assert host.exec("cat", "/var/log/initramfs").stdout.strip().endswith("-u -k all")
    assert host.exec("systemctl", "is-active", "nvidia-persistenced").stdout.strip() == "active"
    running = host.exec("systemctl", "show", "-p", "ExecStart", "nvidia-persistenced").stdout
    assert "--persistence-mode" in running
    assert "--no-persistence-mode" not in running
    assert rig.phase == "installed"

    second = rig.provision()
    assert changed(second) == 0
    assert second.count("TASK [nvidia_driver") == 2  # one look, and one task that is skipped

    host.reboot()
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert host.exec("systemctl", "is-active", "nvidia-persistenced").stdout.strip() == "active"
    host.exec("rm", "/etc/modules-load.d/llama-nexus-nvidia.conf")
    assert changed(rig.provision()) == 1  # what this role set up stays so


def test_a_key_that_is_not_nvidias_is_refused_before_anything_comes_from_the_repository(rig: Rig) -> None:
    told = rig.refused(nvidia_driver_repository_fingerprint="")
    assert "not EB693B3035CD5710E231E123A4B469963BF863CC: whoever answers there is not NVIDIA" in told
    assert rig.versions("nvidia-*") == {}
    assert rig.host.exec("ls", "/etc/apt/sources.list.d").stdout == ""


def test_an_installation_that_was_killed_half_way_is_finished_by_the_next_run(rig: Rig) -> None:
    host = rig.host
    # The job is killed while dpkg works on the driver.
    write(host, "/etc/dpkg/dpkg.cfg.d/slow", "post-invoke=[ ! -e /usr/bin/nvidia-smi ] || sleep 30\n")
    with subprocess.Popen(
        [BIN / "ansible-playbook", PLAYBOOK, "-i", rig.inventory],
        cwd=ROOT, env={**os.environ, "NEXUS_RESULTS": RESULTS.name}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    ) as play:  # fmt: skip
        wait_for(lambda: host.exec("pgrep", "-f", "^sleep 30", check=False).stdout, "dpkg")
        play.kill()
        host.exec("pkill", "-9", "-f", "nvidia_driver_apply", check=False)
        host.exec("pkill", "-9", "-x", "apt-get|dpkg|sleep", check=False)
    host.exec("rm", "/etc/dpkg/dpkg.cfg.d/slow")
    assert rig.phase == "installing"

    assert changed(rig.provision()) == 1
    assert rig.phase == "installed"
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert rig.host.exec("dpkg", "--audit").stdout == ""


def test_a_reboot_that_is_needed_is_refused_unless_it_is_allowed_and_then_done_and_proven(rig: Rig) -> None:
    host = rig.host
    write(host, "/etc/fake-kernel/busy-nouveau", "")
    told = rig.refused()
    assert "rig must be rebooted before its GPUs serve: nouveau holds the GPUs" in told
    assert "Module nouveau is in use" in told
    assert "set nvidia_driver_reboot: true" in told
    boot = host.exec("cat", "/proc/sys/kernel/random/boot_id").stdout
    assert rig.phase == "installing"

    output = rig.provision(nvidia_driver_reboot=True)
    assert changed(output) == 3  # what was left of the installation, the reboot, and what came after it
    assert host.exec("cat", "/proc/sys/kernel/random/boot_id").stdout != boot
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert rig.phase == "installed"


def test_a_driver_that_serves_is_replaced_or_loaded_anew_where_that_is_due_and_its_services_run_on(
    rig: Rig, bus: Path
) -> None:
    install_driver(rig.host, "535.261.03", "proprietary")
    assert rig.smi() == "NVIDIA L4, 8.9, 535.261.03, 23034"
    write_bus(bus, {"0000:05:00.0": "0x22a3"}, kind="0x068000")  # a switch
    for service in ("nvidia-dcgm", "nvidia-fabricmanager"):
        unit = "[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
        write(rig.host, f"/etc/systemd/system/{service}.service", unit)
    rig.host.exec("systemctl", "start", "nvidia-dcgm")

    planned = " ".join(rig.provision("--check", nvidia_driver_upgrade=True).split())
    assert (
        "replace driver 580 with open kernel modules from NVIDIA''s repository (now 535.261.03, proprietary)" in planned
    )
    assert changed(rig.provision(nvidia_driver_upgrade=True)) == 1
    assert set(rig.smi().splitlines()) == {"NVIDIA L4, 8.9, 580.95.05, 23034"}
    assert rig.host.exec("systemctl", "is-active", "nvidia-dcgm", "nvidia-fabricmanager").stdout == "active\n" * 2
    assert rig.host.exec("systemctl", "is-enabled", "nvidia-fabricmanager").stdout == "enabled\n"
    shutil.rmtree(bus / "0000:05:00.0")
    assert changed(rig.provision(nvidia_driver_upgrade=True)) == 0

    upgrade_files(rig.host)
    assert changed(rig.provision()) == 1
    assert rig.smi() == "NVIDIA L4, 8.9, 580.178.04, 23034"


def test_a_driver_that_is_installed_and_does_not_serve_is_refused_with_what_the_kernel_says(rig: Rig) -> None:
    write(rig.host, "/etc/fake-kernel/refuses-nvidia", "Key was rejected by service")
    assert "Key was rejected by service; Secure Boot refuses it: enroll the host's key" in rig.refused()
    rig.host.exec("rm", "/etc/fake-kernel/refuses-nvidia")
    write(rig.host, "/etc/fake-kernel/lost-0000:01:00.0", "")
    told = rig.refused()
    assert "the driver does not serve: the driver 580.95.05 is loaded, but nvidia-smi shows none" in told
    assert rig.phase == "installing"


def test_a_repository_that_can_not_be_reached_is_refused_and_leaves_nothing_to_finish(rig: Rig) -> None:
    install_driver(rig.host, "535.261.03", "proprietary")
    told = rig.refused(nvidia_driver_repository_url="file:///nowhere", nvidia_driver_upgrade=True)
    assert "3bf863cc.pub can't be fetched" in told
    assert changed(rig.provision()) == 0
    assert rig.smi() == "NVIDIA L4, 8.9, 535.261.03, 23034"


def test_another_system_is_refused_in_one_line(rig: Rig) -> None:
    host = rig.host
    host.exec("mv", "/etc/os-release", "/etc/os-release.real")
    write(host, "/etc/os-release", "ID=fedora\nVERSION_ID=42\nPRETTY_NAME='Fedora Linux 42'\n")
    try:
        told = rig.refused()
    finally:
        host.exec("mv", "/etc/os-release.real", "/etc/os-release")
    assert "Fedora Linux 42 is none of the systems that NVIDIA's software is installed on here: Ubuntu" in told
    assert "Traceback" not in told


def test_a_toolkit_comes_from_nvidias_repository_and_nothing_else_does(rig: Rig, tmp_path: Path) -> None:
    play = tmp_path / "toolkit.yml"
    play.write_text(
        "- hosts: gpu-hosts\n  gather_facts: false\n  tasks:\n    - ansible.builtin.include_role:\n"
        "        name: nvidia_driver\n        tasks_from: toolkit\n      vars:\n"
        "        nvidia_driver_toolkit: '{{ toolkit }}'\n"
    )

    def have(toolkit: str, *, check: bool = True) -> str:
        return ansible(play, "-i", rig.inventory, "-e", f"toolkit='{toolkit}'", check=check).stdout

    assert changed(have("13.2")) == 1
    assert rig.versions("cuda-*").keys() == {"cuda-nvcc-13-2", "cuda-cudart-dev-13-2", "cuda-cccl-13-2"}
    policy = ["apt-cache", "policy", "nvidia-driver-cuda"]
    assert "Candidate: (none)" in rig.host.exec(*policy).stdout
    assert changed(have("13.2")) == 0

    # A driver that comes later opens the repository for itself, and the next toolkit doesn't shut it.
    assert changed(rig.provision()) == 1
    assert "has no cuda-nvcc-13-1 and no" in said(have("13.1", check=False))
    assert "Candidate: 580.95.05-1" in rig.host.exec(*policy).stdout


def test_a_host_that_serves_is_drained_before_its_driver_goes_and_serves_again_after(
    rig: Rig, release: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    install_driver(rig.host, "535.261.03", "proprietary")
    for moment in ("before", "after"):
        (tmp_path / f"{moment}.yml").write_text(
            json.dumps(
                [{"name": moment, "ansible.builtin.debug": {"msg": f"hook {moment} of {{{{ inventory_hostname }}}}"}}]
            )
        )
    path = f"{MODELS}/{models['tiny'].name}"
    size = models["tiny"].stat().st_size
    main = {"model": "tiny", "port": 8600, "ctx_size": 1024, "parallel": 1}
    given: dict[str, Any] = {
        "llama_server_instances": one_thread({"main": main}),
        "llama_server_verify_tokens": 4,
        "llama_server_before_host": str(tmp_path / "before.yml"),
        "llama_server_after_host": str(tmp_path / "after.yml"),
        "llama_models": {"tiny": {"path": path}},
        "gguf_model_files": {"tiny": {"path": path, "size_bytes": size, "sha256": sha256(models["tiny"])}},
        "llama_cpp_release": {
            "name": release.name, "path": RELEASE, "manifest": json.loads((release / "manifest.json").read_text())
        },
    }  # fmt: skip
    ansible("playbooks/serve.yml", "-i", rig.inventory, "-e", json.dumps(given))
    url = f"http://{rig.host.address}:8600"
    pid = rig.host.exec("pgrep", "-x", "llama-server").stdout

    assert changed(rig.provision(**given)) == 0  # a driver that serves is no reason to stop anything
    assert rig.host.exec("pgrep", "-x", "llama-server").stdout == pid

    output = rig.provision(nvidia_driver_upgrade=True, **given)
    order = [
        line for line in output.splitlines() if re.search(r"hook (before|after)|TASK \[nvidia_driver : Start", line)
    ]
    assert [re.sub(r".*(before|after|Start).*", r"\1", line) for line in order] == ["before", "Start", "after"]
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert rig.host.exec("pgrep", "-x", "llama-server").stdout != pid
    assert rig.host.exec("curl", "-sf", f"{url.replace(rig.host.address, '127.0.0.1')}/health").returncode == 0

    # One that can't be loaded any more leaves the servers running.
    write(rig.host, "/etc/fake-kernel/refuses-nvidia", "No such device")
    upgrade_files(rig.host)
    told = rig.refused(**given)
    assert "could not insert 'nvidia': No such device" in told
    assert "The servers main run again as before" in told
    assert rig.host.exec("curl", "-sf", "http://127.0.0.1:8600/health").returncode == 0


def upgrade_files(host: Host) -> None:
    """As an upgrade behind everyone's back leaves it: new files, the old module."""
    host.exec(
        "sed", "-i", "s/580.95.05/580.178.04/", "/usr/bin/nvidia-smi", f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko"
    )
    assert "mismatch" in host.exec("nvidia-smi", check=False).stdout


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
