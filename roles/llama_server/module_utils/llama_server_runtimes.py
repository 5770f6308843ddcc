"""The three things that keep a server running, behind one contract.

    prepare(config)  what a start needs (unit, program, image, user) is there; nothing that runs is touched
    start(config)    the server of this generation is told to run
    stop(name)       it has ended
    settle(config)   it was proven: from now on it starts with the host, where the runtime can do that
    forget(name)     nothing of it is left
    status(name)     "running", "starting" (between two lives), "failed" (given up), "stopped", or "unsupervised" (it
                     runs, and nothing would start it again), and the process
    log(name)        what the running process wrote; with a number, the last lines, of whichever life

systemd runs files/launch.py, which becomes the verified generation, or the pending one while a switch holds the lock.
supervisor does the same without root. Docker has a container a generation, so its argv is that of the container.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from ansible.module_utils.llama_server_host import Config, Folder, HostError, folders, write_file

STOP_SECONDS = 60  # each runtime asks politely for 30 seconds and then kills
UNIT = "/etc/systemd/system/llama-server@.service"
LABEL = "llama-nexus"
# What supervisord and its servers keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip


@dataclass(frozen=True)
class Status:
    """What a runtime says of an instance. ``life`` changes with each start."""

    state: str
    pid: int | None = None
    life: str = ""
    argv: tuple[str, ...] | None = None
    """As the runtime knows it; None: ask /proc."""


@dataclass(frozen=True)
class Settings:
    """What the role says about the host."""

    root: str  # the folder of all instances
    logs: str
    launcher: str
    unit: str  # text of the template unit
    user: str
    supervisor_python: str


def run(
    *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 300, env: dict[str, str] | None = None
) -> str:
    """Run a program and return what it printed.

    Raises HostError with its last line when it fails.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            env=env,
        )  # fmt: skip
    except OSError as error:
        raise HostError(f"{argv[0]} can't be run ({error.strerror}): install it, or choose another runtime") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{' '.join(argv[:3])} did not end within {timeout:.0f} s: look at the host") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise HostError(f"{' '.join(argv[:3])} failed: {said[-1]}")
    return done.stdout


def is_root() -> bool:
    return os.geteuid() == 0


def has_systemd() -> bool:
    """Whether systemd is PID 1, as sd_booted(3) tells."""
    return os.path.isdir("/run/systemd/system")


def resolve(runtime: str) -> str:
    """What ``auto`` means on this host.

    Raises HostError where the wanted runtime can't be used.
    """
    if runtime == "auto":
        return "systemd" if has_systemd() and is_root() else "supervisor"
    if runtime == "systemd" and not has_systemd():
        raise HostError("systemd does not run here: set llama_server_runtime to auto, supervisor or docker")
    if runtime == "systemd" and not is_root():
        raise HostError("systemd units need root: set ansible_become, or llama_server_runtime: supervisor")
    return runtime


def have_user(name: str) -> tuple[int, int]:
    """The ids of the servers' own user, made where it does not exist."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", name)  # fmt: skip
        found = pwd.getpwnam(name)
    return found.pw_uid, found.pw_gid


def cmdline(pid: int) -> list[str]:
    """The arguments of a process; none where it ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return [word.decode(errors="replace") for word in stream.read().split(b"\0")[:-1]]
    except OSError:
        return []


class Systemd:
    """Instances of one template unit."""

    name = "systemd"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def unit(name: str) -> str:
        return f"llama-server@{name}.service"

    def owner(self) -> tuple[int, int] | None:
        return have_user(self.settings.user)

    def prepare(self, config: Config) -> None:
        text = config["unit"].replace("@PYTHON@", sys.executable)
        try:
            with open(UNIT, encoding="utf-8") as stream:
                same = stream.read() == text
        except OSError:
            same = False
        if not same:
            write_file(UNIT, text)
            run("systemctl", "daemon-reload")

    def start(self, config: Config) -> None:
        self.prepare(config)  # each generation has the unit that it was proven with
        unit = self.unit(config["name"])
        run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", "start", unit)

    def stop(self, name: str) -> None:
        run("systemctl", "stop", self.unit(name))
        run(
            "systemctl", "reset-failed", self.unit(name), check=False
        )  # one that had to be killed was stopped all the same

    def settle(self, config: Config) -> None:
        run("systemctl", "enable", "--quiet", self.unit(config["name"]))

    def unsettle(self, name: str) -> None:
        run("systemctl", "disable", "--quiet", self.unit(name), check=False)

    def forget(self, name: str) -> None:
        run("systemctl", "disable", "--quiet", "--now", self.unit(name), check=False)
        run("systemctl", "reset-failed", self.unit(name), check=False)

    def status(self, name: str) -> Status:
        shown = run(
            "systemctl", "show", self.unit(name), "-p", "ActiveState,SubState,MainPID,InvocationID", check=False
        )
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        pid = int(found.get("MainPID") or 0) or None
        active, sub = found.get("ActiveState"), found.get("SubState")
        if pid and active == "active":
            return Status("running", pid, str(pid))
        if active == "activating" or sub == "auto-restart":
            return Status("starting")
        return Status("failed" if active == "failed" else "stopped")

    def log(self, name: str, lines: int | None = None) -> list[str]:
        which = [f"--unit={self.unit(name)}", f"--lines={lines}"] if lines else [f"_PID={self.status(name).pid}"]
        return run("journalctl", "--boot", "--quiet", "--output=cat", *which, check=False).splitlines()

    def where_log(self, name: str) -> str:
        return f"journalctl -u {self.unit(name)}"


class Supervisor:
    """Programs of one supervisord a prefix, as whatever user runs it."""

    name = "supervisor"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.configuration = os.path.join(settings.root, "supervisord.conf")
        self.socket = os.path.join(settings.root, "supervisor.sock")

    def owner(self) -> tuple[int, int] | None:
        return None

    def prepare(self, config: Config) -> None:
        text = self._configuration({config["name"]})
        try:
            with open(self.configuration, encoding="utf-8") as stream:
                same = stream.read() == text
        except OSError:
            same = False
        if not same:
            write_file(self.configuration, text, mode=0o600)

    def start(self, config: Config) -> None:
        name = config["name"]
        self.prepare(config)
        proxy = self._connect()
        if proxy is None:
            end(self._orphans(name))
            proxy = self._start_supervisord()
        applied: Any = proxy.supervisor.reloadConfig()  # which reads the file and applies nothing
        added, changed, removed = applied[0]
        for group in [*removed, *changed]:
            if group in removed or group == name:
                proxy.supervisor.stopProcessGroup(group)
                proxy.supervisor.removeProcessGroup(group)
        for group in [*changed, *added]:
            if group in added or group == name:
                proxy.supervisor.addProcessGroup(group)
        if self._info(proxy, name).get("statename") not in ("STARTING", "RUNNING", "BACKOFF"):
            proxy.supervisor.startProcess(name, False)

    def stop(self, name: str) -> None:
        proxy = self._connect()
        if proxy is None:
            end(self._orphans(name))
        elif self._info(proxy, name).get("statename") in ("STARTING", "RUNNING", "BACKOFF"):
            proxy.supervisor.stopProcess(name)

    def settle(self, config: Config) -> None:
        """Nothing starts supervisord with the host: deploy again after a reboot."""

    def unsettle(self, name: str) -> None:
        """It never was to start with the host; the last one stopped ends supervisord."""
        proxy = self._connect()
        if proxy and not any(info["pid"] for info in self._infos(proxy)):
            self.shut_down()

    def forget(self, name: str) -> None:
        self.stop(name)
        proxy = self._connect()
        write_file(self.configuration, self._configuration(set(), without=name), mode=0o600)
        if proxy and self._info(proxy, name):
            proxy.supervisor.removeProcessGroup(name)
        if proxy and not self._infos(proxy):
            self.shut_down()

    def shut_down(self) -> None:
        """End supervisord, and with it what it runs."""
        proxy = self._connect()
        if proxy:
            proxy.supervisor.shutdown()
            while self._connect():  # until the shutdown has begun; _connect waits for its end
                time.sleep(0.1)

    def status(self, name: str) -> Status:
        proxy = self._connect()
        if proxy is None:
            left = self._orphans(name)
            return Status("unsupervised", left[0], str(left[0])) if left else Status("stopped")
        info = self._info(proxy, name)
        state, pid = info.get("statename"), info.get("pid") or None
        if state in ("STARTING", "RUNNING") and pid:
            return Status("running", pid, str(pid))
        if state in ("STARTING", "BACKOFF"):
            return Status("starting")
        return Status("failed" if state in ("FATAL", "EXITED") else "stopped")

    def log(self, name: str, lines: int | None = None) -> list[str]:
        said: list[str] = []
        newest = self.where_log(name)
        # Older parts first, as supervisor numbers them; the launcher's line says where this process begins.
        for path in [*sorted(glob.glob(glob.escape(newest) + ".*"), reverse=True), newest]:
            with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
                said += stream.read().splitlines()
        if lines:
            return said[-lines:]
        begin = f"launch: process {self.status(name).pid} "
        starts = [number for number, line in enumerate(said) if line.startswith(begin)]
        return said[starts[-1] :] if starts else []

    def where_log(self, name: str) -> str:
        return os.path.join(self.settings.logs, f"{name}.log")

    def _configuration(self, wanted: set[str], without: str | None = None) -> str:
        names = wanted | {
            folder.name
            for folder in folders(self.settings.root)
            for config in map(folder.linked, ("verified", "pending"))
            if config and config["runtime"] == self.name
        }
        parts = [
            "; Written by Ansible, role llama_server.",
            "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
            "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock",
            "[supervisord]\npidfile = %(here)s/supervisord.pid\n"
            f"logfile = {self.settings.logs}/supervisord.log\nlogfile_maxbytes = 10MB\nlogfile_backups = 2\n"
            f"childlogdir = {self.settings.logs}",
        ]
        for name in sorted(names - {without}):
            folder = os.path.join(self.settings.root, name)
            parts.append(
                f"[program:{name}]\n"
                f"command = {self.settings.supervisor_python} {self.settings.launcher} {folder}\n"
                f"directory = {folder}\n"
                f"stdout_logfile = {self.where_log(name)}\nstdout_logfile_maxbytes = 50MB\nstdout_logfile_backups = 3\n"
                "redirect_stderr = true\nautostart = false\nautorestart = true\n"
                # One that dies within this time after its start is tried three times more and then left alone, FATAL.
                "startsecs = 30\nstartretries = 3\n"
                "stopsignal = TERM\nstopwaitsecs = 30\nkillasgroup = true\nstopasgroup = true"
            )
        return "\n\n".join(parts) + "\n"

    @staticmethod
    def _infos(proxy: xmlrpc.client.ServerProxy) -> list[dict[str, Any]]:
        infos: Any = proxy.supervisor.getAllProcessInfo()
        return list(infos)

    def _info(self, proxy: xmlrpc.client.ServerProxy, name: str) -> dict[str, Any]:
        return next((info for info in self._infos(proxy) if info["name"] == name), {})

    def _connect(self) -> xmlrpc.client.ServerProxy | None:
        """supervisord's interface, or None when it does not run. One that is shutting down is waited for."""
        proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(self.socket))
        shutting_down = 6  # supervisor.xmlrpc.Faults.SHUTDOWN_STATE
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                proxy.supervisor.getState()
                return proxy
            except (OSError, http.client.HTTPException):
                return None
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != shutting_down or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _start_supervisord(self) -> xmlrpc.client.ServerProxy:
        os.makedirs(self.settings.logs, exist_ok=True)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        said = run(self.settings.supervisor_python, "-m", "supervisor.supervisord",
                   "--configuration", self.configuration, check=False, env=kept)  # fmt: skip
        for _ in range(100):
            proxy = self._connect()
            if proxy:
                return proxy
            time.sleep(0.1)
        raise HostError(f"supervisord does not start from {self.configuration}: {said.strip() or 'it says nothing'}")

    def _orphans(self, name: str = "*") -> list[int]:
        """Servers that were started from here and still run. With supervisord gone nobody looks after them."""
        found = []
        for path in glob.glob(os.path.join(glob.escape(self.settings.root), name, "process")):
            try:
                with open(path, encoding="utf-8") as stream:
                    started = json.load(stream)
            except (OSError, ValueError):
                continue
            if cmdline(started["pid"]) == started["argv"]:  # else the number has passed to another process
                found.append(started["pid"])
        return found


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, which is where supervisord listens."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(STOP_SECONDS)
        self.sock.connect(self.host)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: object) -> _UnixConnection:
        connection = _UnixConnection("supervisor")
        connection.host = self.path
        return connection


def end(pids: list[int]) -> None:
    """End processes, at first politely."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + STOP_SECONDS / 2
        while time.monotonic() < deadline and any(map(cmdline, pids)):
            time.sleep(0.1)


# How each container is confined and kept; the rest is the instance's own.
CONTAINER = (
    "--network", "host", "--read-only", "--tmpfs", "/tmp",  # noqa: S108 - the container's own
    "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--stop-timeout", "30",
    "--log-driver", "json-file", "--log-opt", "max-size=50m", "--log-opt", "max-file=3",
    "--health-interval", "10s", "--health-timeout", "5s", "--health-start-period", "1h", "--health-retries", "3",
)  # fmt: skip


class Docker:
    """A container a generation, on the network of the host: it listens where the declaration says and nowhere else."""

    name = "docker"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def container(config: Config) -> str:
        return f"llama-server-{config['name']}-{config['id']}"

    def owner(self) -> tuple[int, int] | None:
        return have_user(self.settings.user) if is_root() else None

    def prepare(self, config: Config) -> None:
        name = self.container(config)
        if self._inspect(name):  # its name holds the generation, which decides all of it
            return
        image = have_image(config)
        uid, gid = self.owner() or (os.getuid(), os.getgid())
        gpus = config["gpus"]
        wants_gpu = config["release"]["backend"] == "cuda" and config["n_gpu_layers"] != 0
        argv = config["argv"]
        port, address = config["port"], config["local_url"].split("//", 1)[1].rpartition(":")[0].strip("[]")
        # The image needs no client for this: bash opens the connection itself.
        health = (
            f"exec 3<>/dev/tcp/{address}/{port} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 "
            "&& read -r status <&3 && [[ $status == *' 200 '* ]]"
        )
        created = [
            "docker", "create", "--name", name, "--pull", "never", *config["container"], "--user", f"{uid}:{gid}",
            "--label", f"{LABEL}.instance={config['name']}", "--label", f"{LABEL}.generation={config['id']}",
            "--restart", "no",  # only what was proven starts with the host: settle() says so
            "--health-cmd", f'bash -c "{health}"'.replace("$", "\\$"),
        ]  # fmt: skip
        if wants_gpu:
            created += ["--gpus", f'"device={",".join(gpus)}"' if gpus else "all"]
        for variable, value in sorted(config["environment"].items()):
            if not (gpus and variable == "CUDA_VISIBLE_DEVICES"):  # inside, the chosen ones are all that there are
                created += ["--env", f"{variable}={value}"]
        for path in sorted({config["folder"], *self._files(config)}):
            created += ["--mount", f"type=bind,source={path},target={path},readonly"]
        run(*created, "--entrypoint", argv[0], image, *argv[1:])

    @staticmethod
    def _files(config: Config) -> list[str]:
        models = [config["model"]] if config["model"] else list(config["models"].values())
        return [model["path"] for model in [*models, *config["side_models"]]]

    def start(self, config: Config) -> None:
        self.prepare(config)
        try:
            run("docker", "start", self.container(config))
        except HostError as error:
            if "could not select device driver" in str(error):
                raise HostError(
                    "the container engine can't hand out GPUs: install nvidia-container-toolkit and restart docker"
                ) from error
            raise

    def stop(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "stop", container)

    def settle(self, config: Config) -> None:
        run("docker", "update", "--restart", "always", self.container(config))
        for container in self._containers(config["name"]):
            if container != self.container(config):
                run("docker", "rm", "--force", container)

    def unsettle(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "update", "--restart", "no", container)

    def forget(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "rm", "--force", container)

    def status(self, name: str) -> Status:
        inspected = [self._inspect(container) for container in self._containers(name)]
        found = [container for container in inspected if container]
        # The one that runs, else the one that ran last.
        found.sort(key=lambda container: (container["State"]["Running"], container["State"]["StartedAt"]))
        if not found:
            return Status("stopped")
        container = found[-1]
        state, life = container["State"], container["State"]["StartedAt"]
        argv = (container["Path"], *container["Args"])
        if state["Restarting"]:
            return Status("starting", None, life, argv)
        if state["Running"]:
            return Status("running", state["Pid"], life, argv)
        return Status("failed" if state["ExitCode"] not in (0, 137, 143) else "stopped", None, life, argv)

    def log(self, name: str, lines: int | None = None) -> list[str]:
        status, containers = self.status(name), self._containers(name)
        said: list[str] = []
        for container in containers:
            found = self._inspect(container)
            if found and found["State"]["StartedAt"] == status.life:
                tail = ["--tail", str(lines)] if lines else []
                done = subprocess.run(
                    ["docker", "logs", "--since", status.life, *tail, container],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                )  # fmt: skip
                said = done.stdout.splitlines()
        return said

    def where_log(self, name: str) -> str:
        containers = self._containers(name)
        return f"docker logs {containers[-1] if containers else 'llama-server-' + name}"

    def _containers(self, name: str) -> list[str]:
        said = run("docker", "ps", "--all", "--filter", f"label={LABEL}.instance={name}", "--format", "{{.Names}}")
        return sorted(said.split())

    def _inspect(self, container: str) -> dict[str, Any] | None:
        said = run("docker", "inspect", "--type", "container", container, check=False)
        found: list[dict[str, Any]] = json.loads(said or "[]")
        return found[0] if found else None


def have_image(config: Config) -> str:
    """The image that holds the release: there already, built from a base image, or taken from an archive or registry.

    Raises HostError when it can't be had, or is not what was declared.
    """
    wanted, release = config["image"], config["release"]
    if "ref" in wanted:
        if not _image(wanted["ref"]):
            run("docker", "pull", "--quiet", wanted["ref"], timeout=3600)
        image: str = wanted["ref"]
    elif "archive" in wanted:
        image = _loaded(wanted["archive"], wanted["sha256"])
    else:
        image = _built(wanted["base"], release)
    labels = (_image(image) or {}).get("Config", {}).get("Labels") or {}
    if labels.get(f"{LABEL}.release") != release["name"]:
        raise HostError(
            f"image {image} holds release {labels.get(LABEL + '.release')}, not {release['name']}: build it again from "
            "that release, or declare the image of this one"
        )
    return image


def _image(name: str) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = json.loads(run("docker", "image", "inspect", name, check=False) or "[]")
    return found[0] if found else None


def _built(base: str, release: dict[str, Any]) -> str:
    """Build from the base image on this host, unless this release on this base was built before."""
    if not _image(base):
        run("docker", "pull", "--quiet", base, timeout=3600)
    found = _image(base)
    if not found:
        raise HostError(f"base image {base} is not there: load it on the host, or name one that can be pulled")
    tag = f"llama-nexus/llama-server:{release['name']}-{found['Id'].split(':')[1][:12]}"
    if _image(tag):
        return tag
    dockerfile = (
        f"FROM {base}\n"
        f'LABEL {LABEL}.release="{release["name"]}"\n'
        f"COPY . {release['path']}\n"
        # A library that the base image lacks is found now, not by the first start.
        f"RUN set -e; missing=$(ldd {release['path']}/bin/llama-server | grep 'not found' || true); "
        'if [ -n "$missing" ]; then echo "the base image lacks: $missing" >&2; exit 1; fi\n'
    )
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the classic builder is part of every engine
    done = subprocess.run(
        ["docker", "build", "--quiet", "--tag", tag, "--file", "-", release["path"]],
        input=dockerfile, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise HostError(f"image {tag} can't be built: {done.stdout.strip().splitlines()[-1]}")
    return tag


def _loaded(archive: str, sha256: str) -> str:
    """Load an image from a file of `docker save`, whose hash must be the declared one."""
    tag = f"llama-nexus/archive:{sha256[:12]}"
    if _image(tag):
        return tag
    digest = hashlib.sha256()
    try:
        with open(archive, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise HostError(f"image archive {archive} can't be read ({error.strerror}): put it on the host") from error
    if digest.hexdigest() != sha256:
        raise HostError(f"image archive {archive} has sha256 {digest.hexdigest()}, not {sha256}: nothing was loaded")
    said = run("docker", "load", "--quiet", "--input", archive, timeout=3600)
    loaded = said.strip().rpartition(": ")[2]
    run("docker", "tag", loaded, tag)
    return tag


Runtime = Union[Systemd, Supervisor, Docker]
RUNTIMES: dict[str, Callable[[Settings], Runtime]] = {
    runtime.name: runtime for runtime in (Systemd, Supervisor, Docker)
}


def runtime_of(config: Config, settings: Settings) -> Runtime:
    """What runs a generation."""
    return RUNTIMES[config["runtime"]](settings)


def remove_trial(folder: Folder, settings: Settings) -> None:
    """Remove the side-port server that a switch left behind."""
    config = folder.linked("pending") or folder.linked("verified")
    if config:
        runtime_of(config, settings).forget(folder.name)
    folder.remove()
