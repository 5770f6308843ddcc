"""Role container_engine: what it decides for each system and state, and what it reads and writes on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from plugins.module_utils.container_engine import decisions as engine

URL = "https://nvidia.github.io/libnvidia-container/stable"
RHEL = "https://download.docker.com/linux/rhel"
WANTED = engine.Wanted(
    toolkit_url=URL, toolkit_key_url=f"{URL}/../gpgkey", docker_url=RHEL, docker_key_url=f"{RHEL}/gpg"
)
TOOLKIT = [
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
]
GPUS = ["GPU-11111111-2222-3333-4444-555555555555"]
SEEN = {"docker": "29.1.3", "toolkit": "1.18.2", "driver": "580.95.05", "gpus": GPUS}
CHECK = "check that a container is given a GPU"
CONFIGURE = "add the runtime nvidia to /etc/docker/daemon.json and have docker read it again"


def system(name: str, version: str) -> dict[str, str]:
    return {"ID": name, "VERSION_ID": version, "PRETTY_NAME": f"{name} {version}"}


def bare(name: str = "debian", version: str = "12", **found: Any) -> Any:
    """A host with a GPU and no engine."""
    return engine.HostFacts(os_release=system(name, version), gpus=GPUS, driver="580.95.05", **found)


def complete(**found: Any) -> Any:
    """A host that needs nothing, but for what is named."""
    made = engine.HostFacts(
        os_release=system("debian", "13"), dockerd="/usr/sbin/dockerd", client="docker", docker="29.1.3",
        runtimes=["nvidia", "runc"], configuration='{"runtimes": {"nvidia": {"path": "x"}}}', toolkit="1.18.2",
        toolkit_packaged=True, gpus=GPUS, driver="580.95.05", checked=SEEN,
    )  # fmt: skip
    return replace(made, **found)


# --- systems -------------------------------------------------------------------------------------------------------

APT = [f"{name}>=1.18.2" for name in TOOLKIT]
DNF = [f"{name} >= 1.18.2" for name in TOOLKIT]
CE = ["docker-ce", "docker-ce-cli", "containerd.io"]


@pytest.mark.parametrize(
    ("name", "version", "packages", "manager"),
    [
        ("ubuntu", "22.04", ["docker.io", *APT], "apt"),
        ("ubuntu", "24.04", ["docker.io", *APT], "apt"),
        ("debian", "12", ["docker.io", *APT], "apt"),
        ("debian", "13", ["docker.io", "docker-cli", *APT], "apt"),
        ("rhel", "9.6", [*CE, *DNF], "dnf"),
        ("rhel", "10.1", [*CE, *DNF], "dnf"),
        ("rocky", "9.6", [*CE, *DNF], "dnf"),
        ("almalinux", "10.0", [*CE, *DNF], "dnf"),
        ("ol", "9.5", [*CE, *DNF], "dnf"),
        ("centos", "10", [*CE, *DNF], "dnf"),
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_system_gets_its_packages(
    name: str, version: str, packages: list[str], manager: str, machine: str
) -> None:
    plan = engine.decide(bare(name, version, machine=machine), WANTED)
    assert (plan.problem, plan.packages, plan.manager) == ("", packages, manager)
    assert (plan.start, plan.configure, plan.check, plan.disruptive) == (True, True, True, False)


@pytest.mark.parametrize(
    ("machine", "folder"), [("x86_64", "amd64"), ("aarch64", "arm64")]
)  # fmt: skip
def test_apt_is_told_of_nvidia_s_repository_and_takes_the_toolkit_from_no_other(machine: str, folder: str) -> None:
    plan = engine.decide(bare(machine=machine), WANTED)
    sources, preferences = plan.files
    assert sources["path"] == "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"
    assert sources["content"].splitlines() == [
        "Types: deb", f"URIs: {URL}/deb/{folder}", "Suites: /",
        "Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.gpg",
    ]  # fmt: skip
    assert preferences["content"].splitlines()[1:] == ['Pin: origin "nvidia.github.io"', "Pin-Priority: 700"]
    assert "*" not in preferences["content"]
    (key,) = plan.keys
    assert key["fingerprint"] == "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
    assert key["path"] == "/etc/apt/keyrings/nvidia-container-toolkit.gpg"


def test_dnf_is_told_of_both_repositories_with_their_keys() -> None:
    plan = engine.decide(bare("rhel", "9.6"), WANTED)
    docker, toolkit = plan.files
    assert docker["path"] == "/etc/yum.repos.d/docker-ce.repo"
    assert f"baseurl={RHEL}/9/$basearch/stable\n" in docker["content"]
    assert "repo_gpgcheck=0\ngpgcheck=1\n" in docker["content"]
    assert f"baseurl={URL}/rpm/$basearch\n" in toolkit["content"]
    assert "repo_gpgcheck=1\ngpgcheck=0\n" in toolkit["content"]  # the packages themselves carry no signature
    for key, repository in zip(plan.keys, plan.files, strict=True):
        assert f"gpgkey=file://{key['path']}\n" in repository["content"]
    assert [key["fingerprint"][-8:] for key in plan.keys] == ["621E9F35", "F796ECB0"]


def test_a_mirror_takes_the_place_of_each_address() -> None:
    mirror = engine.Wanted(
        toolkit_url="http://mirror.example:8080/nvidia/", toolkit_key_url="http://mirror.example/key",
        docker_url="http://mirror.example/docker/", docker_key_url="http://mirror.example/docker.asc",
        toolkit_fingerprint="A" * 40, docker_fingerprint="B" * 40,
    )  # fmt: skip
    plan = engine.decide(bare("rocky", "10.0"), mirror)
    text = json.dumps([plan.files, plan.keys, plan.steps])
    assert "nvidia.github.io" not in text
    assert "docker.com" not in text
    assert "http://mirror.example:8080/nvidia/rpm/$basearch" in text
    assert "http://mirror.example/docker/10/$basearch/stable" in text
    assert [key["fingerprint"] for key in plan.keys] == ["B" * 40, "A" * 40]
    preferences = engine.decide(bare(), mirror).files[1]["content"]
    assert 'origin "mirror.example"' in preferences


# --- states --------------------------------------------------------------------------------------------------------


def test_a_host_that_has_all_of_it_needs_nothing() -> None:
    assert engine.decide(complete(), WANTED) == engine.Plan(manager="apt")


@pytest.mark.parametrize(
    ("found", "steps"),
    [
        pytest.param({"client": None}, ["install docker-cli", CHECK], id="engine without its client"),
        pytest.param({"docker": None}, ["start docker, now and with the host", CHECK], id="engine that is stopped"),
        pytest.param({"runtimes": ["runc"]}, [CONFIGURE, CHECK], id="runtime in the file and not read"),
        pytest.param({"configuration": None}, [], id="runtime from a flag of the engine"),
        pytest.param(
            {"docker": None, "configuration": '{"debug": true}'},
            ["start docker, now and with the host", CONFIGURE, CHECK], id="stopped, and runtime unknown",
        ),
        pytest.param({"checked": None}, [CHECK], id="never looked at"),
        pytest.param({"checked": {**SEEN, "driver": "570.1"}}, [CHECK], id="another driver since"),
        pytest.param({"checked": {**SEEN, "docker": "28.0"}}, [CHECK], id="another engine since"),
        pytest.param({"checked": {**SEEN, "gpus": []}}, [CHECK], id="another GPU since"),
        pytest.param({"dockerd": "/usr/local/bin/dockerd"}, [], id="engine of no package"),
        pytest.param({"os_release": system("arch", "1")}, [], id="complete on another system"),
        pytest.param({"machine": "ppc64le"}, [], id="complete on another machine"),
        pytest.param({"root": False}, [], id="complete, and not root"),
        pytest.param({"interrupted": True}, [], id="dpkg interrupted, and nothing to install"),
        pytest.param({"systemd": False}, [], id="engine that runs without systemd"),
        pytest.param({"toolkit_packaged": False}, [], id="toolkit of no package, new enough"),
    ],
)  # fmt: skip
def test_only_what_is_missing_is_done(found: dict[str, Any], steps: list[str]) -> None:
    plan = engine.decide(complete(**found), WANTED)
    assert (plan.problem, plan.steps) == ("", steps)
    assert not plan.disruptive


@pytest.mark.parametrize(
    ("there", "wanted", "due"),
    [
        ("1.18.2", "", None),
        ("1.20.0", "", None),
        ("1.18.1", "", "1.18.2 or newer in place of 1.18.1"),
        ("1.9.0", "", "1.18.2 or newer in place of 1.9.0"),
        (None, "", "1.18.2 or newer"),
        (None, "1.19.1", "1.19.1"),
        ("1.19.1", "1.19.1", None),
        ("1.20.0", "1.19.1", "1.19.1 in place of 1.20.0"),
    ],
)
def test_the_toolkit_has_the_version_that_is_asked_for(there: str | None, wanted: str, due: str | None) -> None:
    plan = engine.decide(complete(toolkit=there), replace(WANTED, toolkit_version=wanted))
    installs = [step for step in plan.steps if step.startswith("install")]
    assert installs == ([f"install nvidia-container-toolkit {due}"] if due else [])
    assert plan.disruptive is (there in ("1.18.1", "1.9.0"))  # its containers may lose their GPUs
    if due:
        expected = [f"{name}={wanted}-*" if wanted else f"{name}>=1.18.2" for name in TOOLKIT]
        assert plan.packages == expected


@pytest.mark.parametrize(
    ("gpu", "noted"),
    [
        pytest.param({"gpus": []}, True, id="none"),
        pytest.param({"gpus": [], "bus": ["NVIDIA AD104"]}, False, id="on the bus, without a driver yet"),
    ],
)
def test_the_toolkit_is_for_hosts_with_a_gpu(gpu: dict[str, Any], noted: bool) -> None:
    plan = engine.decide(replace(bare(), **gpu), WANTED)
    assert plan.packages[0] == "docker.io"
    assert (len(plan.packages) == 1) is noted
    assert plan.notes == (
        ["there is no NVIDIA GPU on this host: nvidia-container-toolkit is left out"] if noted else []
    )
    assert plan.check is not noted


def test_an_engine_s_packages_can_be_others() -> None:
    plan = engine.decide(bare("rhel", "9.6"), replace(WANTED, packages=("moby-engine", "moby-cli")))
    assert plan.packages[:2] == ["moby-engine", "moby-cli"]
    assert RHEL not in json.dumps([plan.files, plan.steps])


@pytest.mark.parametrize(
    "listed",
    [
        {"/etc/apt/sources.list.d/nvidia.list": f"# theirs\ndeb [signed-by=/usr/x.gpg] {URL}/deb/$(ARCH) /\n"},
        {"/etc/apt/sources.list.d/nvidia-container-toolkit.sources": f"Types: deb\nURIs: {URL}/deb/amd64/\n"},
    ],
)
def test_a_repository_that_somebody_added_is_not_added_again(listed: dict[str, str]) -> None:
    plan = engine.decide(bare(repositories=listed), WANTED)
    assert [file["path"] for file in plan.files] == ["/etc/apt/preferences.d/nvidia-container-toolkit"]
    assert plan.keys == []


def test_a_repository_that_is_commented_out_or_our_own_is_written() -> None:
    ours = engine.decide(bare(), WANTED).files
    for listed in ({"/etc/apt/sources.list": f"# deb {URL}/deb/amd64 /\n"}, {ours[0]["path"]: ours[0]["content"]}):
        plan = engine.decide(bare(repositories=listed), WANTED)
        assert (plan.files, len(plan.keys)) == (ours, 1)


def test_a_repository_of_docker_s_that_is_there_is_left_alone() -> None:
    theirs = {
        "/etc/yum.repos.d/docker-ce.repo": "[docker-ce-stable]\nbaseurl=https://download.docker.com/linux/centos/9\n"
    }
    plan = engine.decide(bare("rocky", "9.6", repositories=theirs), WANTED)
    assert "/etc/yum.repos.d/docker-ce.repo" not in [file["path"] for file in plan.files]
    assert [key["path"] for key in plan.keys] == ["/etc/pki/rpm-gpg/RPM-GPG-KEY-nvidia-container-toolkit.asc"]


def test_what_dpkg_was_interrupted_in_is_finished_first() -> None:
    plan = engine.decide(bare(interrupted=True), WANTED)
    assert plan.finish
    assert plan.steps[0] == "finish the installation that dpkg was interrupted in"


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "problem"),
    [
        pytest.param(
            bare("fedora", "42"), {},
            "a Docker engine and nvidia-container-toolkit 1.18.2 or newer can't be installed on fedora 42: supported",
            id="system",
        ),
        pytest.param(bare("ubuntu", "20.04"), {}, "can't be installed on ubuntu 20.04", id="version of a system"),
        pytest.param(
            bare(machine="ppc64le"), {}, "is not there for ppc64le, only for x86_64 and aarch64", id="machine"
        ),
        pytest.param(bare(root=False), {}, "set ansible_become: true", id="not root"),
        pytest.param(complete(runtimes=[], root=False), {}, "set ansible_become: true", id="runtime, not root"),
        pytest.param(bare(systemd=False), {}, "there is no systemd to keep one running", id="pod"),
        pytest.param(bare("rhel", "9.6", client="podman"), {}, "dnf remove podman-docker", id="podman"),
        pytest.param(complete(dockerd="/snap/bin/docker"), {}, "snap remove docker", id="snap"),
        pytest.param(
            complete(configuration="{,}"), {}, "/etc/docker/daemon.json is not valid JSON", id="daemon.json"
        ),
        pytest.param(complete(configuration="[]"), {}, "holds no JSON object", id="daemon.json, a list"),
        pytest.param(
            complete(configuration='{"runtimes": []}', configuration_path="/srv/docker.json"), {},
            "runtimes in /srv/docker.json is no JSON object", id="daemon.json, runtimes",
        ),
        pytest.param(
            complete(toolkit="1.17.8", toolkit_held=True), {},
            "is held at 1.17.8, and 1.18.2 or newer is needed: apt-mark", id="held",
        ),
        pytest.param(
            complete(toolkit="1.14.3", toolkit_packaged=False), {}, "1.14.3 did not come as a package", id="by hand"
        ),
        pytest.param(
            complete(), {"toolkit_version": "1.17.8"}, "container_engine_toolkit_version is 1.17.8, before 1.18.2",
            id="pinned to an old one",
        ),
        pytest.param(
            complete(), {"toolkit_url": "https://ada:sesame@mirror.example/x"},
            "container_engine_toolkit_url holds a password", id="password",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_had_is_refused_with_what_to_do(found: Any, wanted: dict[str, Any], problem: str) -> None:
    plan = engine.decide(found, replace(WANTED, **wanted))
    assert problem in plan.problem
    assert "sesame" not in plan.problem
    assert "\n" not in plan.problem
    assert plan == engine.Plan(problem=plan.problem)  # and nothing is done


# --- daemon.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_engine_without_settings_gets_the_runtime(text: str | None) -> None:
    assert json.loads(engine.with_runtime(text, "x")) == {
        "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"runtimes": {"nvidia": {"path": "/usr/local/nvidia/toolkit/nvidia-container-runtime"}}}',
        engine.with_runtime('{"debug": true}', "x"),
    ],
)
def test_a_runtime_that_is_there_stays_to_the_letter(text: str) -> None:
    assert engine.with_runtime(text, "x") == text


def test_settings_keep_their_values_and_their_order() -> None:
    text = '{"log-opts": {"max-size": "7m"}, "data-root": "/srv/ä", "runtimes": {"mine": {"path": "/x"}}, "mtu": 1400}'
    before, after = json.loads(text), json.loads(engine.with_runtime(text, "x"))
    assert after.pop("runtimes") == {**before.pop("runtimes"), "nvidia": engine.RUNTIME_ENTRY}
    assert list(after.items()) == list(before.items())
    assert "/srv/ä" in engine.with_runtime(text, "x")


# --- the check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("docker: Error response from daemon: unknown or invalid runtime name: nvidia", "does not know the runtime"),
        ("docker: Error response from daemon: Unknown runtime specified nvidia.", "does not know the runtime"),
        ('exec: "nvidia-container-runtime": executable file not found in $PATH: <nil>: unknown.', "can't find"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", "module is not loaded"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "module is not loaded"),
        ("nvml error: driver/library version mismatch", "reboot the host"),
        ("failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND", "libraries are not where"),
        ("failed to inject: unresolvable CDI devices management.nvidia.com/gpu=7: unknown", "CDI specification"),
        ("failed to get device cgroup mount path: no cgroup filesystem mounted", "no-cgroups = true"),
        ('exec: "nvidia-smi": executable file not found in $PATH: unknown.', "added nothing"),
        ("Failed to initialize NVML: Unknown Error", "device nodes"),
        ("docker: something else\nmore of it", "docker: something else"),
        ("", "nothing was said"),
    ],
)
def test_what_the_engine_says_has_a_likely_cause(said: str, meaning: str) -> None:
    found = engine.cause(said)
    assert meaning in found
    assert "\n" not in found
    assert said.split("\n")[0][:200] in found


def test_a_long_error_is_told_by_its_end() -> None:
    found = engine.cause("docker: " + "OCI runtime create failed: " * 40 + "driver/library version mismatch: unknown")
    assert len(found) < 500
    assert found.endswith("version mismatch: unknown)")


def test_a_gpu_that_is_divided_is_given_in_parts() -> None:
    whole, divided = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n", "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)\n"
    parts = "".join(f"  MIG 1g.10gb     Device  {number}: (UUID: MIG-{number})\n" for number in (0, 1))
    assert engine.devices(whole + divided) == ["GPU-1", "GPU-2"]
    assert engine.devices(whole + divided + parts) == ["GPU-1", "MIG-0", "MIG-1"]
    assert engine.devices(divided + parts + whole) == ["MIG-0", "MIG-1", "GPU-1"]
    assert engine.devices("No devices found.\n") == []
