"""The three things that keep a server running, behind one contract.

    prepare(config)  what a start needs (unit, program, image, user) is there; nothing that runs is touched
    start(config)    the server of this generation is told to run
    stop(name)       it has ended
    settle(config)   it was proven: from now on it starts with the host, where the runtime can do that
    forget(name)     nothing of it is left
    altered(config)  what the runtime itself keeps of it on the disk, where that is no longer what was proven
    status(name)     "running", "starting" (between two lives), "failed" (given up), "stopped", or "unsupervised" (it
                     runs, and nothing would start it again), and the process
    log(name)        what the running process wrote; with a number, the last lines, of whichever life

systemd runs launch.py, which becomes the verified generation, or the pending one while a switch holds the lock.
Each generation has the launcher and the unit that it was proven with. supervisor does the same without root. Docker has
a container a generation, so its argv is that of the container.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import http.client
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from .host import Config, Folder, HostError, folders, write_file

LIVE = ("STARTING", "RUNNING", "BACKOFF")  # states of a program that supervisord keeps running
SHUTTING_DOWN = 6  # supervisor.xmlrpc.Faults.SHUTDOWN_STATE
STOP_SECONDS = 60  # each runtime asks politely for 30 seconds and then kills
UNITS = "/etc/systemd/system"
MASKED_UNITS = "/run/systemd/system"  # where systemctl mask --runtime says that a unit must not start
TRIED_UNITS = "/run/systemd/system.control"  # counts more, and does not outlive a reboot: so the verified one boots
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
    user: str
    supervisor_python: str


def run(*argv: str, check: bool = True, timeout: float = 300, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed to stdout.

    Raises HostError with what it says when it fails, and when it can't be run or does not end.
    """
    done = _run(argv, timeout, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        said = done.stderr.splitlines() + done.stdout.splitlines()
        raise HostError(f"{' '.join(argv[:3])} failed: {cause(said) or f'exit status {done.returncode}'}")
    return done.stdout


def cause(said: list[str]) -> str:
    """The line of a program's output that says why it failed: the first that is an error, or else speaks of one, since
    what follows often says that it failed, or where to look; else the last.
    """
    lines = [line.strip() for line in said if line.strip() and not line.startswith("Step ")]  # of a Dockerfile
    for sign in (r"error", r".*(error|failed|denied)"):
        for line in lines:
            if re.match(sign, line, re.IGNORECASE) and not line.startswith("WARNING"):
                return line
    return "".join(lines[-1:])


def attempt(
    *argv: str, timeout: float = 300, env: dict[str, str] | None = None, given: str = ""
) -> tuple[int, list[str]]:
    """Run a program that may fail, with ``given`` to read: its exit status, and the lines of stdout and stderr."""
    done = _run(argv, timeout, env=env, input=given, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.splitlines()


def _run(argv: tuple[str, ...], timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, stdout=subprocess.PIPE, text=True, errors="replace", timeout=timeout, check=False, **options
        )
    except OSError as error:
        raise HostError(f"{argv[0]} can't be run ({error.strerror}): install it, or choose another runtime") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{' '.join(argv[:3])} did not end within {timeout:.0f} s: look at the host") from error


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


def _content(path: str) -> str | None:
    """The text of a file; None where it can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def cmdline(pid: int) -> list[str]:
    """The arguments of a process; none where it ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return [word.decode(errors="replace") for word in stream.read().split(b"\0")[:-1]]
    except OSError:
        return []


class Systemd:
    """A unit an instance, all from one template."""

    name = "systemd"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def unit(name: str) -> str:
        return f"llama-server@{name}.service"

    def owner(self) -> tuple[int, int] | None:
        return have_user(self.settings.user)

    def prepare(self, config: Config) -> None:
        """Refuse a unit that another prefix has. Its own comes with the start: a unit on the disk counts."""
        strange = self._strange(config["name"])
        if strange:
            raise HostError(
                f"{strange} is masked, or belongs to another prefix of this host: remove it, or give instance "
                f"{config['name']} another name"
            )

    def _strange(self, name: str) -> str | None:
        """The unit of this name that another prefix has, or that somebody masked. It is not touched."""
        for folder in (UNITS, TRIED_UNITS, MASKED_UNITS):
            path = os.path.join(folder, self.unit(name))
            text = _content(path)
            if text is not None and f" {self.settings.root}/" not in text:
                return path
        return None

    def start(self, config: Config) -> None:
        unit = self.unit(config["name"])
        self._have_units(config, {TRIED_UNITS} if self.altered(config) else {UNITS})
        run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", "start", unit)

    def stop(self, name: str) -> None:
        if self._strange(name):
            return
        run("systemctl", "stop", self.unit(name), check=False)  # which fails for a unit that is not there, too
        state = self._show(name)["ActiveState"]
        if state not in ("inactive", "failed"):
            raise HostError(f"{self.unit(name)} does not stop, it is {state}: look at the host")
        # One that had to be killed was stopped all the same.
        run("systemctl", "reset-failed", self.unit(name), check=False)

    def settle(self, config: Config) -> None:
        self._have_units(config, {UNITS})
        run("systemctl", "enable", "--quiet", self.unit(config["name"]))

    def unsettle(self, name: str) -> None:
        if self._strange(name):
            return
        run("systemctl", "disable", "--quiet", self.unit(name), check=False)

    def forget(self, name: str) -> None:
        unit = self.unit(name)
        if self._strange(name):
            return
        run("systemctl", "disable", "--quiet", unit, check=False)
        self.stop(name)
        for folder in (UNITS, TRIED_UNITS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, unit))
        run("systemctl", "daemon-reload")

    def altered(self, config: Config) -> list[str]:
        unit = self.unit(config["name"])
        return [] if _content(os.path.join(UNITS, unit)) == self._text(config) else [unit]

    def _have_units(self, config: Config, folders_: set[str]) -> None:
        """Have the unit of a generation in these folders; what is not to be tried any more goes."""
        name, changed = self.unit(config["name"]), False
        for folder in folders_:
            path = os.path.join(folder, name)
            if _content(path) != self._text(config):
                os.makedirs(folder, mode=0o755, exist_ok=True)
                write_file(path, self._text(config))
                changed = True
        tried = os.path.join(TRIED_UNITS, name)
        if TRIED_UNITS not in folders_ and os.path.exists(tried):
            os.unlink(tried)
            changed = True
        stale = run(
            "systemctl", "show", name, "-p", "NeedDaemonReload", check=False
        )  # a run was killed before it asked
        if changed or "yes" in stale:
            run("systemctl", "daemon-reload")

    @staticmethod
    def _text(config: Config) -> str:
        return str(config["unit"]).replace("@PYTHON@", sys.executable).replace("@GENERATION@", config["folder"])

    def status(self, name: str) -> Status:
        if self._strange(name):
            return Status("stopped")
        found = self._show(name)
        pid = int(found.get("MainPID") or 0) or None
        active, sub = found.get("ActiveState"), found.get("SubState")
        if pid and active == "active":
            return Status("running", pid, found.get("InvocationID", ""))
        if active == "activating" or sub == "auto-restart":
            return Status("starting", None, found.get("InvocationID", ""))
        return Status("failed" if active == "failed" else "stopped")

    def _show(self, name: str) -> dict[str, str]:
        """What systemd says of the unit, also of one that is not there."""
        shown = run("systemctl", "show", self.unit(name), "-p", "ActiveState,SubState,MainPID,InvocationID", timeout=60)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def log(self, name: str, lines: int | None = None) -> list[str]:
        life = f"_SYSTEMD_INVOCATION_ID={self.status(name).life}"
        which = [f"--unit={self.unit(name)}", f"--lines={lines}"] if lines else [life]
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
        """Nothing: the configuration comes with the start."""

    def start(self, config: Config) -> None:
        name = config["name"]
        text = self._configuration({name: config})
        if _content(self.configuration) != text:
            write_file(self.configuration, text, mode=0o600)
        proxy = self._connect()
        if proxy is None:
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
        if self._info(proxy, name).get("statename") not in LIVE:
            end(self._orphans(name))
            proxy.supervisor.startProcess(name, False)

    def stop(self, name: str) -> None:
        proxy = self._connect()
        if proxy and self._info(proxy, name).get("statename") in LIVE:
            try:
                proxy.supervisor.stopProcess(name)
            except HostError:  # it may have ended by itself meanwhile
                if self._info(proxy, name).get("statename") in LIVE:
                    raise
        end(self._orphans(name))

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
        write_file(self.configuration, self._configuration({}, without=name), mode=0o600)
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

    def altered(self, config: Config) -> list[str]:
        return []  # what supervisord has read counts, not the file

    def status(self, name: str) -> Status:
        proxy = self._connect()
        info = self._info(proxy, name) if proxy else {}
        state, pid = info.get("statename"), info.get("pid") or None
        if state in ("STARTING", "RUNNING") and pid:
            return Status("running", pid, str(info["start"]))
        if state in ("STARTING", "BACKOFF"):
            return Status("starting", None, str(info["start"]))
        left = self._orphans(name)
        if left:
            return Status("unsupervised", left[0], str(left[0]))
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

    def _configuration(self, wanted: dict[str, Config], without: str | None = None) -> str:
        known = {
            folder.name: config
            for folder in folders(self.settings.root)
            for config in map(folder.linked, ("pending", "verified"))
            if config and config["runtime"] == self.name
        }
        programs = {**known, **wanted}
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
        for name in sorted(set(programs) - {without}):
            folder = os.path.join(self.settings.root, name)
            launcher = os.path.join(programs[name]["folder"], "launch.py")
            parts.append(
                f"[program:{name}]\n"
                f"command = {self.settings.supervisor_python} {launcher} {folder}\n"
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
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                proxy.supervisor.getState()
                return proxy
            except OSError as error:
                if not isinstance(error, _ShuttingDown):
                    return None
                if time.monotonic() > deadline:
                    raise HostError(f"supervisord does not end within {STOP_SECONDS} s: end it") from error
                time.sleep(0.2)

    def _start_supervisord(self) -> xmlrpc.client.ServerProxy:
        os.makedirs(self.settings.logs, exist_ok=True)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        command = (self.settings.supervisor_python, "-m", "supervisor.supervisord", "--configuration")
        code, said = attempt(*command, self.configuration, env=kept)
        for _ in range(100) if code == 0 else ():
            proxy = self._connect()
            if proxy:
                return proxy
            time.sleep(0.1)
        raise HostError(f"supervisord does not start from {self.configuration}: {cause(said) or 'it says nothing'}")

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


class _ShuttingDown(ConnectionRefusedError):
    """supervisord takes no more orders."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, which is where supervisord listens."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(STOP_SECONDS)
        try:
            self.sock.connect(self.host)
        except OSError:
            self.sock.close()
            raise


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def request(self, *args: Any, **options: Any) -> Any:
        try:
            return super().request(*args, **options)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == SHUTTING_DOWN:
                raise _ShuttingDown(errno.ECONNREFUSED, "supervisord is shutting down", self.path) from fault
            raise HostError(f"supervisord refuses: {fault.faultString}") from fault
        except xmlrpc.client.ProtocolError as error:
            raise HostError(f"supervisord refuses: {error.errmsg}") from error
        except http.client.HTTPException as error:
            raise ConnectionResetError(errno.ECONNRESET, "supervisord broke off", self.path) from error
        finally:
            self.close()

    def make_connection(self, host: Any) -> _UnixConnection:
        connection = _UnixConnection("supervisor")
        connection.host = self.path
        self._connection = host, connection  # where close() looks for it
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
    "--restart", "no",  # only what was proven starts with the host: settle() says so
)  # fmt: skip

GPU_RUNTIME = "nvidia"  # which role container_engine makes known to the engine


def container_options(config: Config) -> list[str]:
    """What a container is created with, as far as that is the same on each host."""
    address, port = config["local_url"].split("//", 1)[1].rpartition(":")[0].strip("[]"), config["port"]
    # The image needs no client for this: bash opens the connection itself.
    health = (
        f"exec 3<>/dev/tcp/{address}/{port} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 "
        "&& read -r status <&3 && [[ $status == *' 200 '* ]]"
    )
    options = [*CONTAINER, "--health-cmd", f'bash -c "{health}"'.replace("$", "\\$")]
    gpus, environment = config["gpus"], config["environment"]
    if config["uses_gpu"] and config["release"]["backend"] == "cuda":
        # Not --gpus: before Docker 29.2 systemd knows nothing of its devices, and takes them away on a daemon-reload.
        options += ["--runtime", GPU_RUNTIME]
        environment = {
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_VISIBLE_DEVICES": "all", **environment,
            **({"NVIDIA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
        }  # fmt: skip
    for variable, value in sorted(environment.items()):
        if not (gpus and variable == "CUDA_VISIBLE_DEVICES"):  # inside, the chosen ones are all that there are
            options += ["--env", f"{variable}={value}"]
    return options


class Docker:
    """A container a generation, on the network of the host: it listens where the declaration says and nowhere else."""

    name = "docker"
    LOOK_SECONDS = 60  # a hanging engine must not keep whoever looks

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
        created = [
            "docker", "create", "--name", name, "--pull", "never", *config["container"], "--user", f"{uid}:{gid}",
            "--label", f"{LABEL}.instance={config['name']}", "--label", f"{LABEL}.generation={config['id']}",
            "--label", f"{LABEL}.root={self.settings.root}",
        ]  # fmt: skip
        for path in sorted({config["folder"], *model_files(config)}):
            created += ["--mount", f"type=bind,source={path},target={path},readonly"]
        try:
            run(*created, "--entrypoint", config["argv"][0], image, *config["argv"][1:])
        except HostError as error:
            if re.search(rf"runtime (name: |specified ){GPU_RUNTIME}\b", str(error), re.IGNORECASE):
                raise HostError(
                    f"the container engine can't hand out GPUs, it knows no runtime {GPU_RUNTIME}: run "
                    "playbooks/provision.yml, which installs nvidia-container-toolkit"
                ) from error
            raise

    def start(self, config: Config) -> None:
        self.prepare(config)
        run("docker", "start", self.container(config))

    def stop(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "stop", container)

    def altered(self, config: Config) -> list[str]:
        return []  # a container can't be altered, but for its restarts

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
                said = attempt("docker", "logs", "--since", status.life, *tail, container)[1]
        return said

    def where_log(self, name: str) -> str:
        containers = self._containers(name)
        return f"docker logs {containers[-1] if containers else 'llama-server-' + name}"

    def _containers(self, name: str) -> list[str]:
        of_it = (f"label={LABEL}.instance={name}", f"label={LABEL}.root={self.settings.root}")
        filters = [word for label in of_it for word in ("--filter", label)]
        return sorted(
            run("docker", "ps", "--all", *filters, "--format", "{{.Names}}", timeout=self.LOOK_SECONDS).split()
        )

    def _inspect(self, container: str) -> dict[str, Any] | None:
        said = run("docker", "inspect", "--type", "container", container, check=False, timeout=self.LOOK_SECONDS)
        found: list[dict[str, Any]] = json.loads(said or "[]")
        return found[0] if found else None


def model_files(config: Config) -> list[str]:
    """The files that a server reads."""
    models = [config["model"]] if config["model"] else list(config["models"].values())
    return [model["path"] for model in [*models, *config["side_models"]]]


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
    held = [labels.get(f"{LABEL}.release"), labels.get(f"{LABEL}.path")]
    if held != [release["name"], release["path"]]:
        raise HostError(
            f"image {image} holds release {held[0]} in {held[1]}, not {release['name']} in {release['path']}: build it "
            "again from that release, or declare the image of this one"
        )
    return image


def prune_images(used: list[str]) -> None:
    """Remove images of releases that nothing starts any more.

    Args:
        used: the folders of the releases that are kept; images of releases that lie elsewhere are not ours.
    """
    places = {os.path.dirname(path) for path in used}
    listing = run("docker", "images", "--filter", f"label={LABEL}.path", "--format", "{{.Repository}}:{{.Tag}}")
    for tag in listing.split():
        path = ((_image(tag) or {}).get("Config", {}).get("Labels") or {}).get(f"{LABEL}.path", "")
        if tag.startswith("llama-nexus/") and path not in used and os.path.dirname(path) in places:
            run("docker", "image", "rm", tag, check=False)


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
    made_of = hashlib.sha256(f"{found['Id']} {release['path']}".encode()).hexdigest()
    tag = f"llama-nexus/llama-server:{release['name']}-{made_of[:12]}"
    if _image(tag):
        return tag
    dockerfile = (
        f"FROM {base}\n"
        f'LABEL {LABEL}.release="{release["name"]}" {LABEL}.path="{release["path"]}"\n'
        f"COPY . {release['path']}\n"
        # A library that the base image lacks is found now, not by the first start; the driver's comes with the GPU.
        f"RUN if ldd {release['path']}/bin/llama-server | grep 'not found' | grep -v 'libcuda[.]so' > /tmp/missing; "
        'then echo "error: the base image lacks $(cat /tmp/missing)" >&2; exit 1; fi; rm /tmp/missing\n'
    )
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the classic builder is part of every engine
    code, output = attempt(
        "docker", "build", "--quiet", "--tag", tag, "--file", "-", release["path"], given=dockerfile, env=environment,
        timeout=3600,
    )  # fmt: skip
    if code != 0:
        raise HostError(f"image {tag} can't be built: {cause(output) or 'docker build says nothing'}")
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
    """Remove the side-port server that a switch left behind; where its runtime does not answer, the next run does."""
    config = folder.linked("pending") or folder.linked("verified")
    with contextlib.suppress(HostError):
        if config:
            runtime_of(config, settings).forget(folder.name)
        folder.remove()
