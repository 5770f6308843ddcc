"""What goes wrong on a host with systemd, and what then serves. GPUs are those of tests/fakes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed
from tests.conftest import changed, said, wait_for
from tests.fakes.gpus import FakeGpus, Gpu
from tests.fleet.targets import MODELS, RELEASE, Target, target, together

PORT = 8600
BASE: dict[str, Any] = {
    "model": "tiny", "port": PORT, "ctx_size": 4096, "parallel": 1, "n_gpu_layers": 99, "device": "CUDA0",
    "environment": {"GGML_BACKEND_PATH": "/opt/gpus/libggml-cuda.so"}, "chat_template": "chatml",
    "api_keys": {"ops": "0b9f2c-sesame-opens"},
}  # fmt: skip
KEY = BASE["api_keys"]["ops"]


@contextlib.contextmanager
def rig(bed: Bed, name: str, release: Path, models: dict[str, Path], gpus: FakeGpus, folder: Path) -> Iterator[Target]:
    """A host with a GPU."""
    with target(bed, "systemd", name, release, models, folder, mounts={gpus.folder: "/opt/gpus"}) as made:
        made.host.exec("ln", "-s", "/opt/gpus/nvidia-smi", "/usr/local/bin/nvidia-smi")
        yield made


@pytest.fixture(scope="module")
def gpus(gpu_backend: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    folder = tmp_path_factory.mktemp("gpus")
    made = FakeGpus.make(folder / "gpus", gpu_backend, [Gpu()])
    for place in (folder, made.folder):
        place.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def host(
    bed: Bed, release: Path, models: dict[str, Path], gpus: FakeGpus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    with rig(bed, "faults", release, models, gpus, tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def served(host: Target) -> Target:
    """The host with the instance of BASE serving."""
    host.ensure({"main": BASE})
    return host


def serves(host: Target) -> None:
    """The server answers with its key, and another run of the play proves it and changes nothing."""
    assert host.get("main", "/props", KEY)[0] == 200
    assert changed(host.run({"main": BASE}, check=True)) == 0


def test_a_second_run_changes_nothing(served: Target) -> None:
    before = served.pid("main")
    assert before
    assert changed(served.deploy({"main": BASE})) == 0
    assert served.pid("main") == before


def test_the_proof_shows_the_gpu(served: Target) -> None:
    proof = served.host.exec("cat", f"{served.folder('main')}/proof.json").stdout
    assert '"layers on the GPU"' in proof
    assert '"process on the GPU"' in proof
    assert served.get("main", "/props")[0] == 401


def test_the_unit_is_hardened_and_runs_as_a_user_of_its_own(served: Target) -> None:
    shown = served.host.exec("systemd-analyze", "security", "llama-server@main.service").stdout
    exposure = float(shown.rsplit("level for llama-server@main.service:", 1)[1].split()[0])
    assert exposure <= 2.0
    assert served.host.exec("ps", "-o", "user=", "-p", str(served.pid("main"))).stdout.strip() == "llama-server"


# Not alone: it takes two seconds, and not ten with five times as much to do as there are processors.
def test_a_killed_server_is_back_and_proven_within_ten_seconds(served: Target) -> None:
    assert served.kill("main") < 10
    serves(served)


def test_a_release_that_is_too_slow_is_rolled_back(served: Target) -> None:
    verified = served.instance("main")
    slow = {**BASE, "environment": {**BASE["environment"], "NEXUS_FAKE_GPU_DELAY_MS": "60"}}
    message = said(served.run({"main": slow}, llama_server_min_decode_tps=30, llama_server_trial="never"))
    assert "decode speed: expected at least 30.0 tokens/s, found " in message
    assert "the old one was restored and proven" in message
    assert served.instance("main") == verified
    serves(served)


def test_a_server_slower_than_the_last_good_one_is_rolled_back(served: Target) -> None:
    slow = {**BASE, "environment": {**BASE["environment"], "NEXUS_FAKE_GPU_DELAY_MS": "60"}}
    message = said(served.run({"main": slow}, llama_server_max_regression=0.3))
    assert "less llama_server_max_regression" in message
    serves(served)


def test_an_argument_that_the_server_does_not_know_is_refused_before_the_restart(served: Target) -> None:
    before = served.pid("main")
    message = said(served.run({"main": {**BASE, "extra_args": ["--no-such-flag"]}}))
    assert "extra_args hold --no-such-flag, which llama-server of release" in message
    assert served.pid("main") == before


def test_a_switch_goes_on_when_the_controller_is_killed(served: Target) -> None:
    verified = served.instance("main")["id"]
    run = served.start({"main": {**BASE, "ctx_size": 2048}})
    wait_for(lambda: served.state("main")["phase"] not in ("verified", "restored", "refused"), "the switch to begin")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: served.state("main")["phase"] == "verified", "the switch to end")
    assert served.instance("main")["id"] != verified
    assert changed(served.deploy({"main": {**BASE, "ctx_size": 2048}})) == 0


def test_a_host_that_loses_power_in_a_switch_comes_back_with_the_old_server(served: Target) -> None:
    verified = served.instance("main")
    release = served.release_that("sleeps", "sleep 600")
    run = served.start({"main": BASE}, llama_cpp_release=release, llama_server_trial="never")
    try:
        wait_for(lambda: served.state("main")["phase"] == "switching", "the switch to begin")
        served.host.reboot(power_loss=True)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    wait_for(lambda: served.get("main", "/health")[0] == 200, "the old server")
    assert served.instance("main") == verified
    output = served.deploy({"main": BASE})  # which finds an unfinished switch, and ends it
    assert changed(output) > 0
    serves(served)


def test_a_rebooted_host_serves_what_was_verified(served: Target) -> None:
    served.host.reboot()
    wait_for(lambda: served.get("main", "/health")[0] == 200, "the server")
    serves(served)


def test_a_file_that_was_altered_on_the_host_is_found_and_replaced(served: Target) -> None:
    folder = f"{served.folder('main')}/verified"
    served.host.exec("sed", "-i", 's/"4096"/"1024"/', f"{folder}/instance.json")
    assert changed(served.deploy({"main": BASE})) > 0
    assert "4096" in served.instance("main")["argv"]


def test_a_unit_that_was_altered_on_the_host_is_found_and_replaced(served: Target) -> None:
    path = "/etc/systemd/system/llama-server@main.service"
    served.host.exec("sed", "-i", "s/^PrivateTmp=.*/PrivateTmp=no/", path)
    assert changed(served.deploy({"main": BASE})) > 0
    assert "PrivateTmp=yes" in served.read(path)
    assert served.host.exec("systemctl", "show", "-P", "FragmentPath", "llama-server@main").stdout.strip() == path


def test_keys_that_others_could_read_are_closed_again(served: Target) -> None:
    served.host.exec("chmod", "644", f"{served.folder('main')}/verified/keys")
    served.deploy({"main": BASE})
    shown = served.host.exec("stat", "-L", "-c", "%a %U", f"{served.folder('main')}/verified/keys").stdout
    assert shown.split() == ["600", "llama-server"]


def test_a_rotated_key_is_proven_to_be_refused(served: Target) -> None:
    rotated = {**BASE, "api_keys": {"ops": "another-0b9f2c-key"}}
    served.deploy({"main": rotated})
    assert served.get("main", "/props", KEY)[0] == 401
    assert served.get("main", "/props", "another-0b9f2c-key")[0] == 200
    assert '"keys withdrawn"' in served.read(f"{served.folder('main')}/proof.json")


def test_an_operator_rolls_back_stops_starts_and_restarts_over_ssh(served: Target) -> None:
    before = served.instance("main")["id"]
    served.deploy({"main": {**BASE, "ctx_size": 1024}})
    served.declare({"main": BASE})
    assert "faults/main: changed and verified" in served.control("rollback")
    assert served.instance("main")["id"] == before
    assert served.instance("main", "previous")["id"] != before
    assert served.control("stop").splitlines()[-1] == "faults/main: stopped"
    assert served.pid("main") == 0
    assert unit_of(served) == ["disabled", "inactive"]
    assert "faults/main: changed and verified" in served.control("start")
    assert unit_of(served) == ["enabled", "active"]
    started = served.pid("main")
    assert "faults/main: changed and verified" in served.control("restart")
    assert served.pid("main") not in (0, started)
    serves(served)


def unit_of(host: Target) -> list[str]:
    """Whether the unit starts with the host, and whether it runs."""
    return [host.host.exec("systemctl", asked, "llama-server@main", check=False).stdout.strip()
            for asked in ("is-enabled", "is-active")]  # fmt: skip


def test_an_instance_that_is_no_longer_declared_is_reported_and_goes_on(served: Target) -> None:
    output = served.run({}, check=True)
    assert "instance main runs here and is not declared" in output
    assert changed(output) == 0
    assert served.pid("main")
    served.run({}, check=True, llama_server_prune=True)
    assert not served.pid("main")
    assert served.host.exec("ls", f"{served.prefix}/instances").stdout == ""


# By the host that gets it, a release, and what its proof says.
RELEASES = {
    "crashes": (["echo 'fault: it crashes' >&2", "exit 3"], "the server ends while it starts: fault: it crashes"),
    "another-model": (
        [
            'words=("$@")',
            'for at in "${!words[@]}"; do',
            f'  [ "${{words[at]}}" = {MODELS}/tiny.gguf ] && words[at]={MODELS}/twin.gguf',
            "done",
            f'exec -a "$0" {RELEASE}/bin/llama-server "${{words[@]}}"',
        ],
        f"model file: expected {MODELS}/tiny.gguf, found {MODELS}/twin.gguf (another model was loaded)",
    ),
    "on-the-processor": (
        [
            "unset GGML_BACKEND_PATH",
            'words=()',
            'while [ $# -gt 0 ]; do case "$1" in --device) shift 2;; *) words+=("$1"); shift;; esac; done',
            f'exec -a "$0" {RELEASE}/bin/llama-server "${{words[@]}}"',
        ],
        "layers on the GPU: expected all, found none",
    ),
    "another-template": (
        [
            'words=()',
            'while [ $# -gt 0 ]; do case "$1" in --chat-template-file) shift 2;; *) words+=("$1"); shift;; esac; done',
            f'exec -a "$0" {RELEASE}/bin/llama-server "${{words[@]}}"',
        ],
        "chat template: expected the declared template, found another one",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def rigs(
    bed: Bed, release: Path, models: dict[str, Path], gpus: FakeGpus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Target]]:
    """A host for each of RELEASES, with the instance of BASE serving: side by side they wait for less."""
    with contextlib.ExitStack() as stack:
        made = {
            name: stack.enter_context(rig(bed, name, release, models, gpus, tmp_path_factory.mktemp(name)))
            for name in RELEASES
        }
        for one in made.values():
            one.declare({"main": BASE})
            one.deployed = {"main": BASE}
        together(made.values(), check=True)
        yield made


# Without a trial: above, the release that is too slow.
@pytest.mark.parametrize("trial", ["always", pytest.param("never", marks=pytest.mark.soak)])
def test_a_release_that_is_not_as_declared_is_rolled_back(rigs: dict[str, Target], trial: str) -> None:
    before = {name: (rig.pid("main"), rig.instance("main")) for name, rig in rigs.items()}
    for name, rig in rigs.items():
        release = rig.release_that(name, *RELEASES[name][0])
        rig.declare({"main": BASE}, llama_cpp_release=release, llama_server_trial=trial)
    messages = together(rigs.values())
    for name, rig in rigs.items():
        pid, verified = before[name]
        assert RELEASES[name][1] in messages[name]
        if trial == "always":
            assert "the old one never stopped serving" in messages[name]
            assert rig.pid("main") == pid
        else:
            assert "the old one was restored and proven" in messages[name]
            assert rig.pid("main") not in (0, pid)
        assert rig.instance("main") == verified
        assert rig.get("main", "/props", KEY)[0] == 200
        rig.declare({"main": BASE})
    for line in together(rigs.values(), check=True).values():
        assert " changed=0 " in line


def test_a_host_that_was_set_up_anew_around_its_data_is_served_again(served: Target) -> None:
    served.control("stop")
    served.host.exec("rm", "/etc/systemd/system/llama-server@main.service")
    served.host.exec("systemctl", "daemon-reload")
    served.deploy({"main": BASE})
    assert served.host.exec("systemctl", "is-enabled", "llama-server@main").stdout.strip() == "enabled"


def test_a_umask_that_hides_new_files_does_not_hide_them_from_the_server(served: Target) -> None:
    served.run({}, check=True, llama_server_prune=True)
    served.host.exec("rm", "-r", f"{served.prefix}/instances")
    strict = "/opt/python-077"
    script = f"""printf '#!/bin/sh\\numask 077\\nexec python3 "$@"\\n' >{strict} && chmod 755 {strict}"""
    served.host.exec("sh", "-c", script)
    served.deploy({"main": BASE}, ansible_python_interpreter=strict)


def test_a_full_disk_costs_nothing(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    mounts = {"/opt/llama-nexus": "1m"}
    plain = {"model": "tiny", "port": PORT, "ctx_size": 2048, "parallel": 1}
    with target(bed, "systemd", "full", release, models, tmp_path, tmpfs=mounts) as small:
        small.deploy({"main": plain})
        before = small.pid("main")
        small.host.exec("sh", "-c", "dd if=/dev/zero of=/opt/llama-nexus/filler bs=4k 2>/dev/null; true")
        message = said(small.run({"main": {**plain, "ctx_size": 4096}}))
        assert "No space left on device" in message
        assert small.pid("main") == before
        assert small.get("main", "/health")[0] == 200
        small.host.exec("rm", "/opt/llama-nexus/filler")
        small.deploy({"main": {**plain, "ctx_size": 4096}})
