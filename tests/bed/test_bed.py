"""The test bed itself: what other tests take for granted of their hosts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.bed import Bed, Host, inventory
from tests.bed.engine import missing
from tests.bed.fixtures import refuse
from tests.bed.images import Images
from tests.conftest import BIN, ROOT, cache_folder, wait_for
from tests.locks import lock

# Uses an engine, says so, and stops when it is told to, or is killed.
ENGINE_USER = """
import sys
from pathlib import Path
from tests.bed.engine import running_engine
with running_engine(Path("/tmp/cache")) as client:
    print(client.info()["Driver"], flush=True)
    sys.stdin.read(1)
    print(client.info()["Driver"], flush=True)
"""
SESSION = """
import sys, time
from pathlib import Path
from tests.bed.engine import connect
from tests.bed.hosts import Bed
from tests.bed.images import Images
client = connect()
cache = Path(sys.argv[1])
with Bed(client, Images(client, cache, print), cache) as bed:
    print(bed.host("plain", "orphan").container.id, flush=True)
    time.sleep(600)
"""
TOY = """
[Service]
Type=oneshot
StandardOutput=file:/run/toy.out
User=toy
DevicePolicy=closed
DeviceAllow=/dev/nvidia0 rw
LoadCredential=key:/etc/toy.key
PrivateTmp=yes
ProtectSystem=strict
StateDirectory=toy
ExecStart=/bin/sh -c 'id -un; cat ${CREDENTIALS_DIRECTORY}/key; ls /tmp; \\
    touch /var/lib/toy/file && ls /var/lib/toy; touch /usr/local/file /opt/file 2>&1; \\
    head -c 1 /dev/nvidia0 2>&1; head -c 1 /dev/nvidia1 2>&1; true'
"""
TOY_SAYS = """\
toy
secret
file
touch: cannot touch '/usr/local/file': Read-only file system
touch: cannot touch '/opt/file': Read-only file system
head: cannot open '/dev/nvidia0' for reading: No such device or address
head: cannot open '/dev/nvidia1' for reading: Operation not permitted
"""


def on_all(module: str, path: Path, *hosts: Host, arguments: str = "") -> str:
    """Call a module on the hosts through ssh and return its results."""
    path.write_text(json.dumps(inventory(*hosts)))
    done = subprocess.run(
        [BIN / "ansible", "-i", path, "all", "-m", f"ansible.builtin.{module}", "-a", arguments, "--one-line"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def main(bed: Bed) -> Iterator[Host]:
    """A host with systemd."""
    with bed.host("systemd", "main") as host:
        yield host


def test_ansible_finds_systemd_on_one_kind_of_host_and_not_on_the_other(bed: Bed, main: Host, tmp_path: Path) -> None:
    with bed.host("plain", "pod") as pod:
        facts = on_all("setup", tmp_path / "hosts.json", main, pod, arguments="filter=ansible_service_mgr")
        managers = {line.partition(" ")[0]: line for line in facts.splitlines()}
        assert '"ansible_service_mgr": "systemd"' in managers["main"]
        assert '"ansible_service_mgr": "sshd"' in managers["pod"]
        assert pod.ssh("ps", "-o", "comm=", "1").stdout == "sshd\n"
    assert main.ssh("systemctl", "is-system-running").stdout == "running\n"


@pytest.mark.parametrize("power_loss", [False, True])
def test_a_host_comes_back_from_a_reboot_with_its_address_and_an_empty_run_folder(
    main: Host, tmp_path: Path, power_loss: bool
) -> None:
    on_all("ping", tmp_path / "hosts.json", main)  # leaves a connection open
    main.exec("touch", "/run/gone", "/var/kept")
    main.reboot(power_loss=power_loss)
    assert '"pong"' in on_all("ping", tmp_path / "hosts.json", main)
    assert main.exec("ls", "/run/gone", "/var/kept", check=False).stdout == "/var/kept\n"


def test_systemd_confines_a_service_as_its_unit_says(main: Host, tmp_path: Path) -> None:
    unit = tmp_path / "toy.service"
    unit.write_text(TOY)
    main.put(unit, "/etc/systemd/system/toy.service")
    script = """set -e
        useradd --system toy
        echo secret >/etc/toy.key && chmod 600 /etc/toy.key
        touch /tmp/of-the-host
        mknod -m 666 /dev/nvidia0 c 195 0 && mknod -m 666 /dev/nvidia1 c 195 1
        systemctl daemon-reload && systemctl start toy"""
    main.exec("sh", "-c", script)
    assert main.exec("cat", "/run/toy.out").stdout == TOY_SAYS


def test_a_user_without_rights_sees_what_is_mounted_and_may_become_root_where_that_is_wished(
    bed: Bed, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "model.gguf").write_text("weights")
    with bed.host("plain", "pod", mounts={shared: "/srv/shared"}, user="ada", sudo=True) as pod:
        assert pod.ssh("id -un; cat /srv/shared/model.gguf").stdout == "ada\nweights"
        assert pod.ssh("touch", "/opt/file", check=False).returncode != 0
        assert pod.ssh("sudo", "-n", "id", "-un").stdout == "root\n"
        assert pod.exec("touch", "/srv/shared/file", check=False).returncode != 0
    with bed.host("plain", "pod", user="ada") as pod:
        assert pod.ssh("sudo", "-n", "id", "-un", check=False).returncode != 0


def test_a_folder_is_copied_onto_a_small_disk_until_that_is_full(bed: Bed, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small").write_bytes(b"x" * 1024)
    os.chown(folder / "small", 1234, 1234)
    with bed.host("plain", "pod", tmpfs={"/srv/disk": "1m"}) as pod:
        pod.put(folder, "/srv/disk/a/b")
        assert pod.exec("stat", "--format=%s %U", "/srv/disk/a/b/small").stdout == "1024 root\n"
        pod.exec("cp", "/bin/true", "/srv/disk")
        pod.exec("/srv/disk/true")
        (folder / "large").write_bytes(b"x" * (2 << 20))
        with pytest.raises(AssertionError, match="No space left on device"):
            pod.put(folder, "/srv/disk/c")


def test_hosts_that_boot_together_reach_each_other_by_name(bed: Bed) -> None:
    one, two = bed.hosts("plain", ["one", "two"])
    with one, two:
        assert two.address in one.exec("getent", "hosts", "two").stdout
        assert one.exec("timeout", "60", "bash", "-c", "head -c 7 </dev/tcp/two/22").stdout == "SSH-2.0"


def test_a_command_that_fails_on_a_host_fails_the_test_with_what_it_said(main: Host) -> None:
    with pytest.raises(AssertionError, match=r"on main with status 2:\n.*cannot access '/nothing'"):
        main.exec("ls", "/nothing")
    with pytest.raises(AssertionError, match=r"on main with status 2:\n.*cannot access '/nothing'"):
        main.ssh("ls", "/nothing")


def test_what_a_program_says_on_a_host_arrives_whole_with_its_status(main: Host) -> None:
    said = main.exec("sh", "-c", "seq 100000; echo 'a  b' >&2; exit 3", check=False)
    assert (said.stdout, said.stderr, said.returncode) == ("".join(f"{n}\n" for n in range(1, 100001)), "a  b\n", 3)
    assert main.exec("printf", "%s|", "$HOME", "a b", "'").stdout == "$HOME|a b|'|"
    assert main.exec("cat").stdout == ""  # nobody types
    assert main.exec("pgrep", "-f", "no-such-program", check=False).returncode == 1  # nor is what runs it found


def test_a_host_with_an_engine_runs_a_release_in_a_container_of_the_base_image(bed: Bed, release: Path) -> None:
    with bed.host("engine", "engine", mounts={release: "/opt/release"}) as host:
        host.load_image(bed.image())
        said = host.exec(
            "docker", "run", "--rm", "--network=none", "--volume=/opt/release:/opt/release:ro", bed.image(),
            "bash", "-c", "! ldd /opt/release/bin/* | grep 'not found' && /opt/release/bin/llama-server --version 2>&1",
        )  # fmt: skip
        assert said.stdout.startswith("version: ")


@pytest.mark.parametrize("killed", [False, True])
def test_an_engine_is_started_where_none_runs_and_ends_with_the_last_of_its_users(bed: Bed, killed: bool) -> None:
    package = importlib.util.find_spec("docker")
    assert package
    assert package.submodule_search_locations
    mounts = {
        ROOT / "tests": "/opt/project/tests",
        Path(package.submodule_search_locations[0]): "/opt/project/docker",
    }
    with bed.host("engine", "engine", mounts=mounts) as host, contextlib.ExitStack() as stack:

        def use() -> subprocess.Popen[str]:
            program = f"cd /opt/project && exec python3 -c {shlex.quote(ENGINE_USER)}"
            user = stack.enter_context(subprocess.Popen(
                [*host._ssh("root"), program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ))  # fmt: skip
            stack.callback(user.kill)
            assert user.stdout
            assert user.stdout.readline() == "overlay2\n"
            return user

        def runs() -> bool:
            return host.exec("pgrep", "-x", "dockerd", check=False).returncode == 0

        host.exec("systemctl", "stop", "docker.socket", "docker.service")
        assert not runs()
        starter, other = use(), use()
        if killed:
            host.exec("pkill", "-9", "-o", "-x", "python3")
            starter.wait()
        else:
            starter.communicate("x")
        assert (starter.returncode == 0) is not killed
        assert other.communicate("x")[0] == "overlay2\n"  # it had not gone with the one that started it
        wait_for(lambda: not runs(), "the end of the engine")
        assert use().communicate("x")[0] == "overlay2\n"  # and it can be started again


def test_what_a_killed_session_left_is_removed_by_the_next_one_and_nothing_else(bed: Bed, main: Host) -> None:
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    with (
        contextlib.closing(client),
        subprocess.Popen(
            [sys.executable, "-c", SESSION, cache_folder()], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as session,
    ):
        assert session.stdout
        orphan = session.stdout.readline().strip()
        with lock(bed._lock):  # or another session would remove what is left
            session.kill()
            session.wait()
            assert client.containers.get(orphan).status == "running"
            assert list(Path(tempfile.gettempdir()).glob(f"nexus-bed-{session.pid}-*"))
            bed._remove_leftovers()
        assert orphan not in [container.id for container in client.containers.list(all=True)]
        assert not list(Path(tempfile.gettempdir()).glob(f"nexus-bed-{session.pid}-*"))
        assert not client.networks.list(names=[f"llama-nexus-tests-{os.uname().nodename}-{session.pid}"])
    assert main.ssh("true").returncode == 0


def test_images_are_found_again_by_what_they_are_made_of(bed: Bed) -> None:
    def made(line: str) -> None:
        raise AssertionError(f"made again: {line}")

    tag = bed.image("target")
    assert Images(bed._client, cache_folder(), made).tag("target") == tag


@pytest.mark.parametrize(
    ("root", "lacking", "reason"),
    [
        (True, [], None),
        (False, [], "needs root and a Docker engine: run the tests as root"),
        (
            True,
            ["dockerd", "debootstrap"],
            "needs root and a Docker engine: debootstrap, dockerd not found (apt-get install debootstrap docker.io)",
        ),
    ],
)
def test_what_a_machine_lacks_for_test_hosts_is_named(root: bool, lacking: list[str], reason: str | None) -> None:
    assert missing(root=root, which=lambda program: None if program in lacking else f"/usr/bin/{program}") == reason


@pytest.mark.parametrize(
    ("root", "environment", "outcome"),
    [
        (True, {"CI": "true"}, pytest.fail.Exception("dockerd not found; CI must not go without")),
        (True, {}, pytest.skip.Exception("dockerd not found")),
        (True, {"CI": ""}, pytest.skip.Exception("dockerd not found")),
        (False, {"CI": "true"}, pytest.skip.Exception("dockerd not found")),
    ],
)
def test_only_ci_as_root_may_not_go_without_test_hosts(
    root: bool, environment: dict[str, str], outcome: BaseException
) -> None:
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception)) as raised:
        refuse("dockerd not found", root=root, environment=environment)
    assert (raised.type, str(raised.value)) == (type(outcome), str(outcome))
