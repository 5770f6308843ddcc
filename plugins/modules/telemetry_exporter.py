#!/usr/bin/python
"""Ansible module: the exporter of telemetry, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_exporter
short_description: Keep the exporter of telemetry running as declared, or remove it
description:
  - Writes the exporter's files, has systemd or supervisor run it, and sees that it answers as what was declared.
  - What is declared has a hash, which the running exporter tells. One that tells another is restarted.
options:
  root:
    description: The folder of everything that belongs to it.
    type: path
    required: true
  state:
    description: Whether it is to run or to be gone.
    type: str
    choices: [present, absent]
    default: present
  runtime:
    description: What keeps it running. C(auto) is systemd where that is PID 1 and the user is root, else supervisor.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  host:
    description: The address that it listens on.
    type: str
    default: 127.0.0.1
  port:
    description: The port that it listens on.
    type: int
  python:
    description: The interpreter of its environment, which supervisor is in as well.
    type: path
  requirements:
    description: What is in the environment. Another text is a reason for a restart.
    type: str
  files:
    description: Its files by name, C(exporter.py) among them.
    type: dict
    default: {}
  unit:
    description: The systemd unit. C(@COMMAND@) stands for the command line.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the exporter
  llama.nexus.telemetry_exporter:
    root: /opt/llama-nexus/telemetry
    port: 8599
    python: /opt/llama-nexus/telemetry/env/bin/python
    requirements: "{{ lookup('file', 'telemetry.txt') }}"
    files:
      exporter.py: "{{ lookup('file', 'exporter.py') }}"
    unit: "{{ lookup('template', 'llama-nexus-telemetry.service.j2') }}"
"""
RETURN = r"""
reasons:
  description: What was not as declared, a line each.
  returned: always
  type: list
runtime:
  description: What runs it.
  returned: when it is to run
  type: str
url:
  description: Where it answers on this host.
  returned: when it is to run
  type: str
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.process import begin

UNIT = "llama-nexus-telemetry.service"
UNIT_PATH = "/etc/systemd/system/" + UNIT
START_SECONDS = 20
# NVML takes seconds a GPU to begin with where nothing keeps the driver's state.
ANSWER_SECONDS = 30
STOP_SECONDS = 20
# What supervisord and the exporter keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class ExporterError(Exception):
    """What is wrong and what to do, in one line."""


def run(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """A program's exit status and what it printed, both streams."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, check=False,
            timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExporterError(f"{' '.join(argv[:3])} can't be run: {error}") from error
    return done.returncode, done.stdout.decode(errors="replace")


def must(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a program that has to succeed."""
    code, said = run(*argv, env=env)
    if code != 0:
        raise ExporterError(f"{' '.join(argv[:3])} failed: {last_lines(said)}")


def last_lines(text: str, count: int = 3) -> str:
    """The end of what was said, in one line."""
    return " / ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "it said nothing"


def content(path: str) -> str | None:
    """The text of a file; None where it can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def write(path: str, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(draft, 0o644)
    os.replace(draft, path)


def has_systemd() -> bool:
    """Whether systemd is PID 1, as sd_booted(3) tells."""
    return os.path.isdir("/run/systemd/system")


def running_configuration(host: str, port: int) -> str | None:
    """What the exporter that answers there says it was started with; None where none answers."""
    # Whatever a proxy variable of the user says, this is the host itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url_of(host, port), timeout=ANSWER_SECONDS) as answer:
            found = re.search(r'^llama_nexus_exporter_info\{configuration="(\w*)"\}', answer.read().decode(), re.M)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return found[1] if found else None


def url_of(host: str, port: int) -> str:
    """Where the exporter answers on its own host."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reached}]:{port}/metrics" if ":" in reached else f"http://{reached}:{port}/metrics"


def argv_of(process: int) -> list[str]:
    """Its arguments; none where it ended."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as stream:
            return stream.read().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def processes(place: str, *words: str) -> list[int]:
    """The processes with this file among their arguments, or with the exporter of this folder, and these words."""
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit()
        for argv in [argv_of(int(name))]
        if (place in argv or os.path.join(place, "exporter.py") in argv) and all(word in argv for word in words)
    ]


def end(found: Iterable[int]) -> None:
    """End processes and wait for it."""
    pids = list(found)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while left := [pid for pid in pids if argv_of(pid)]:
        if time.monotonic() > deadline:
            raise ExporterError(f"process {left[0]} does not end: end it, and deploy again")
        time.sleep(0.1)


def is_taken(host: str, port: int) -> bool:
    """Whether something listens on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ExporterError(
                f"telemetry_exporter_host {host} can't be listened on ({error.strerror}): name an address of this host"
            ) from error
    return False


class Systemd:
    """A unit of the whole host."""

    name = "systemd"

    def __init__(self, root: str, unit: str) -> None:
        self.root = root
        self.unit = unit

    def place(self) -> str:
        return UNIT_PATH

    def text(self, command: list[str]) -> str:
        return self.unit.replace("@COMMAND@", " ".join(command))

    def there(self) -> bool:
        """Whether the unit is there and of this prefix."""
        text = content(UNIT_PATH)
        return text is not None and f" {self.root}/" in text

    def refuse(self) -> None:
        if content(UNIT_PATH) is not None and not self.there():
            raise ExporterError(
                f"{UNIT_PATH} belongs to another prefix of this host: remove it, or switch the exporter off there"
            )

    def runs(self) -> bool:
        return run("systemctl", "is-active", "--quiet", UNIT)[0] == 0

    def boots(self) -> bool:
        """Whether it starts with the host."""
        return run("systemctl", "is-enabled", "--quiet", UNIT)[0] == 0

    def start(self) -> None:
        must("systemctl", "daemon-reload")
        must("systemctl", "enable", "--quiet", UNIT)
        run("systemctl", "reset-failed", UNIT)
        must("systemctl", "restart", UNIT)

    def remove(self) -> None:
        run("systemctl", "disable", "--quiet", "--now", UNIT)
        os.unlink(UNIT_PATH)
        must("systemctl", "daemon-reload")
        run("systemctl", "reset-failed", UNIT)

    def log(self) -> str:
        return run("journalctl", "--quiet", "--output=cat", "--lines=20", f"--unit={UNIT}")[1]


class Supervisor:
    """A supervisord of the exporter's own, as whatever user runs it."""

    name = "supervisor"

    def __init__(self, root: str, python: str) -> None:
        self.root = root
        self.python = python
        self.configuration = os.path.join(root, "supervisord.conf")

    def place(self) -> str:
        return self.configuration

    def text(self, command: list[str]) -> str:
        return (
            "; Written by Ansible, role telemetry.\n"
            "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
            "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock\n\n"
            "[supervisord]\npidfile = %(here)s/supervisord.pid\nlogfile = %(here)s/supervisord.log\n"
            "logfile_maxbytes = 1MB\nlogfile_backups = 1\nchildlogdir = %(here)s\n\n"
            "[program:telemetry]\n"
            f"command = {' '.join(command)}\n"
            "directory = %(here)s\nstdout_logfile = %(here)s/exporter.log\nstdout_logfile_maxbytes = 1MB\n"
            "stdout_logfile_backups = 1\nredirect_stderr = true\nautostart = true\nautorestart = true\n"
            "startsecs = 3\nstartretries = 3\nstopsignal = TERM\nstopwaitsecs = 10\n"
        )

    def there(self) -> bool:
        return os.path.exists(self.configuration)

    def refuse(self) -> None:
        """Nothing: what is below the prefix is its own."""

    def runs(self) -> bool:
        return re.search(r"\b(RUNNING|STARTING)\b", self._ctl("status", "telemetry")[1]) is not None

    def boots(self) -> bool:
        return True  # nothing starts it with the host, and nobody expects it to

    def start(self) -> None:
        if self._ctl("pid")[0] == 0:
            self._ctl("reread")
            self._ctl("update")
            self._ctl("restart", "telemetry")
        else:
            end(processes(self.root))  # an exporter that outlived its supervisord
            kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
            must(self.python, "-m", "supervisor.supervisord", "--configuration", self.configuration, env=kept)

    def remove(self) -> None:
        # Without supervisorctl: its environment may be broken, and is about to go.
        end(process for process in processes(self.configuration) if "supervisor.supervisord" in argv_of(process))
        end(processes(self.root))

    def log(self) -> str:
        return (content(os.path.join(self.root, "exporter.log")) or "")[-4000:]

    def _ctl(self, *words: str) -> tuple[int, str]:
        if not os.path.exists(self.python):
            return 1, ""
        return run(self.python, "-m", "supervisor.supervisorctl", "--configuration", self.configuration, *words)


def present(module: AnsibleModule) -> dict[str, object]:
    """Have it run as declared; in check mode, say what that takes."""
    params = module.params
    root, host, port = params["root"], params["host"], params["port"]
    systemd = Systemd(root, params["unit"])
    supervisor = Supervisor(root, params["python"])
    wanted = params["runtime"]
    if wanted == "auto":
        wanted = "systemd" if has_systemd() and os.geteuid() == 0 else "supervisor"
    if wanted == "systemd" and not (has_systemd() and os.geteuid() == 0):
        raise ExporterError("systemd does not run here, or not for this user: set telemetry_exporter_runtime to auto")
    chosen, other = (systemd, supervisor) if wanted == "systemd" else (supervisor, systemd)
    chosen.refuse()

    decides = [params["files"], params["requirements"], params["unit"] if chosen is systemd else "", host, port, wanted]
    configuration = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    command = [params["python"], os.path.join(root, "exporter.py"), "--host", host, "--port", str(port),
               "--configuration", configuration]  # fmt: skip
    texts = {os.path.join(root, name): text for name, text in params["files"].items()}
    texts[chosen.place()] = chosen.text(command)

    before = {path: content(path) for path in texts}
    runs = chosen.there() and chosen.runs()
    told = running_configuration(host, port) if runs else None
    reasons = [f"{path} is not as declared" for path, text in sorted(texts.items()) if before[path] != text]
    if not runs:
        reasons.append("the exporter does not run")
    elif told != configuration:
        reasons.append("the exporter was started with another configuration")
    if not chosen.boots():
        reasons.append("the exporter does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    # One of ours that is about to be replaced may have it.
    if not processes(root, "--port", str(port)) and is_taken(host, port):
        raise ExporterError(f"port {port} of {host} is taken: set telemetry_exporter_port to another")
    url = url_of(host, port)
    result = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name, "url": url}
    place, text = chosen.place(), texts[chosen.place()]
    if before[place] != text:  # the command line is in it, and a hash of everything else
        result["diff"] = {"before_header": place, "after_header": place, "before": before[place] or "", "after": text}
    if not reasons or module.check_mode:
        return result

    if other.there():
        other.remove()
    os.makedirs(root, mode=0o755, exist_ok=True)
    for path, text in texts.items():
        if before[path] != text:
            write(path, text)
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while running_configuration(host, port) != configuration or not chosen.runs():
        if time.monotonic() > deadline:
            raise ExporterError(f"the exporter does not answer at {url}. It said: {last_lines(chosen.log())}")
        time.sleep(0.2)
    return result


def absent(module: AnsibleModule) -> dict[str, object]:
    """Have nothing of it left."""
    root = module.params["root"]
    runtimes = [Systemd(root, ""), Supervisor(root, os.path.join(root, "env", "bin", "python"))]
    reasons = [f"{runtime.name} runs an exporter" for runtime in runtimes if runtime.there()]
    if os.path.isdir(root):
        reasons.append(f"{root} is there")
    if reasons and not module.check_mode:
        for runtime in runtimes:
            if runtime.there():
                runtime.remove()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    return {"changed": bool(reasons), "reasons": reasons}


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "runtime": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int"},
            "python": {"type": "path"},
            "requirements": {"type": "str"},
            "files": {"type": "dict", "default": {}},
            "unit": {"type": "str"},
        },
        required_if=[("state", "present", ["port", "python", "requirements", "files", "unit"])],
        supports_check_mode=True,
    )
    try:
        result = present(module) if module.params["state"] == "present" else absent(module)
    except (ExporterError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
