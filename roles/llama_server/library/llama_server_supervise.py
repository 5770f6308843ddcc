#!/usr/bin/python
"""Ansible module: llama-server instances under supervisor, as its configuration file says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_supervise
short_description: Run llama-server instances under supervisor
description:
  - With C(state=free), refuses ports that a process other than these instances holds, and changes nothing. To be asked
    before anything is written or stopped.
  - With C(state=running), starts supervisord when it does not run, restarts the programs whose configuration changed,
    starts those that stopped and ends those that are no longer in the file.
  - With C(state=stopped), stops the programs and supervisord.
  - A program that supervisor calls running may still be loading, or about to fail; M(llama_server_verify) tells.
options:
  state:
    description: Whether the instances could run, should run, or should not.
    choices: [free, running, stopped]
    default: running
    type: str
  configuration:
    description: The file supervisord.conf. Its socket is supervisor.sock beside it.
    type: path
    required: true
  python:
    description: An interpreter that has supervisor. Needed for C(state=running).
    type: path
  instances:
    description: The file's instances, by name the address and the port that each listens on.
    type: dict
    default: {}
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Run what the file says
  llama_server_supervise:
    configuration: /opt/llama-nexus/instances/supervisord.conf
    python: /opt/llama-nexus/tools/bin/python
    instances: {main: [127.0.0.1, 8600]}
"""
RETURN = r"""
started:
  description: Instances that were started.
  returned: always
  type: list
restarted:
  description: Instances that were stopped and started, because their configuration changed.
  returned: always
  type: list
stopped:
  description: Instances that were stopped.
  returned: always
  type: list
removed:
  description: Files that were removed, of instances that are no longer declared and keys that are no longer used.
  returned: always
  type: list
"""

import contextlib
import errno
import glob
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import xmlrpc.client

from ansible.module_utils.basic import AnsibleModule

# supervisor itself tries a program in BACKOFF again; one that it gave up is FATAL.
ALIVE = ("STARTING", "RUNNING", "BACKOFF")
KINDS = ("json", "keys", "process")  # the files of an instance
SHUTDOWN_STATE = 6  # the fault code of a supervisord that is ending
# supervisord waits this long for a program to end before it kills it (stopwaitsecs), and we wait for supervisord.
STOP_SECONDS = 60


class SuperviseError(Exception):
    """A message that names the remedy."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, which is where supervisord listens."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(STOP_SECONDS)
        self.sock.connect(self.host)


class UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: object) -> UnixConnection:
        return UnixConnection(self.path)


def socket_path(params: dict) -> str:
    return os.path.join(os.path.dirname(params["configuration"]), "supervisor.sock")


def connect(path: str) -> xmlrpc.client.ServerProxy | None:
    """supervisord's interface, or None when it does not run. One that is shutting down is waited for."""
    proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=UnixTransport(path))
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            proxy.supervisor.getState()
            return proxy
        except (OSError, http.client.HTTPException):
            return None
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != SHUTDOWN_STATE or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def listener(host: str, port: int) -> str | None:
    """Who listens on a port so that ``host`` can't: ``process 123 (nginx)``, or None when nobody does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As llama-server binds: a connection that is only closing down does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SuperviseError(
                    f"nothing can listen on {host}, port {port}: {error.strerror}; choose an address of this host and "
                    "a port above 1023"
                ) from error
            return holder(port) or "a process of another user"
    return None


def holder(port: int) -> str | None:
    """The process that listens on a TCP port, found through /proc; None when it is another user's."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        listening = "0A"
        inodes |= {row[9] for row in rows if row[3] == listening and int(row[1].rsplit(":", 1)[1], 16) == port}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            with open(f"/proc/{pid}/comm", encoding="utf-8") as stream:
                name = stream.read().strip()
        except OSError:
            continue
        if any(f"socket:[{inode}]" in links for inode in inodes):
            return f"process {pid} ({name})"
    return None


def require_free(params: dict, check_mode: bool) -> dict:
    """Refuse when a port is held by anything but the servers of this supervisord, which make way for one another."""
    proxy = connect(socket_path(params))
    supervised = proxy.supervisor.getAllProcessInfo() if proxy else []
    pids = [info["pid"] for info in supervised] + orphans(os.path.dirname(params["configuration"]))
    own = tuple(f"process {pid} " for pid in pids)
    for name, (host, port) in sorted(params["instances"].items()):
        taken = listener(host, int(port))
        if taken and not taken.startswith(own):
            raise SuperviseError(
                f"port {port} on {host} is taken by {taken}: end it, or give instance {name} another port"
            )
    return {}


def read_instance(folder: str, name: str) -> dict | None:
    try:
        with open(os.path.join(folder, f"{name}.json"), encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def orphans(folder: str) -> list[int]:
    """Servers that were started from this folder and still run. With supervisord gone nobody looks after them."""
    found = []
    for path in glob.glob(os.path.join(folder, "*.process")):
        try:
            with open(path, encoding="utf-8") as stream:
                started = json.load(stream)
            with open(f"/proc/{started['pid']}/cmdline", "rb") as stream:
                words = [word.decode(errors="replace") for word in stream.read().split(b"\0")[:-1]]
        except (OSError, ValueError):
            continue
        if words == started["argv"]:  # else the number has passed to another process
            found.append(started["pid"])
    return found


def end(pids: list[int]) -> None:
    """End processes, at first politely."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + STOP_SECONDS / 2
        while time.monotonic() < deadline and any(map(is_alive, pids)):
            time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped has no command line."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return bool(stream.read())
    except OSError:
        return False


def start_supervisord(python: str, configuration: str, path: str) -> xmlrpc.client.ServerProxy:
    done = subprocess.run(
        [python, "-m", "supervisor.supervisord", "--configuration", configuration],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip
    for _ in range(100):
        proxy = connect(path)
        if proxy:
            return proxy
        time.sleep(0.1)
    said = done.stdout.decode(errors="replace").strip().splitlines()
    raise SuperviseError(f"supervisord does not start from {configuration}: {' / '.join(said[-3:])}")


def run(params: dict, check_mode: bool) -> dict:
    names = set(params["instances"])
    proxy = connect(socket_path(params))
    if proxy is None:
        if not check_mode:
            end(orphans(os.path.dirname(params["configuration"])))
            start_supervisord(params["python"], params["configuration"], socket_path(params))
        return {"started": sorted(names)}

    supervised = {info["group"]: info for info in proxy.supervisor.getAllProcessInfo()}
    # Reading the file again applies nothing; it says what differs from what runs.
    added, changed, removed = ([], [], []) if check_mode else proxy.supervisor.reloadConfig()[0]
    down = [name for name, info in supervised.items() if info["statename"] not in ALIVE and name in names]
    for name in [*removed, *changed]:
        proxy.supervisor.stopProcessGroup(name)
        proxy.supervisor.removeProcessGroup(name)
    for name in [*changed, *added]:
        proxy.supervisor.addProcessGroup(name)  # autostart starts it
    again = sorted(set(down) - set(changed))
    for name in () if check_mode else again:
        proxy.supervisor.startProcess(name, False)
    return {"started": sorted([*added, *again]), "restarted": sorted(changed), "stopped": sorted(removed)}


def remove_leftovers(params: dict, check_mode: bool) -> list[str]:
    """Remove the files of instances that are no longer declared, and keys that none uses; return the files' names."""
    folder = os.path.dirname(params["configuration"])
    left = []
    for path in [path for kind in KINDS for path in glob.glob(os.path.join(folder, f"*.{kind}"))]:
        name, kind = os.path.splitext(os.path.basename(path))
        declared = read_instance(folder, name) if name in params["instances"] else None
        if not declared or (kind == ".keys" and declared["api_key_file"] is None):
            left.append(path)
    for path in () if check_mode else left:
        os.unlink(path)
    return sorted(os.path.basename(path) for path in left)


def stop(params: dict, check_mode: bool) -> dict:
    proxy = connect(socket_path(params))
    if proxy is None:
        left = orphans(os.path.dirname(params["configuration"]))
        if not check_mode:
            end(left)
        return {"stopped": [f"process {pid}" for pid in left]}
    names = sorted(info["name"] for info in proxy.supervisor.getAllProcessInfo() if info["statename"] in ALIVE)
    if not check_mode:
        proxy.supervisor.shutdown()
        while connect(socket_path(params)):  # until the shutdown has begun; connect waits for its end
            time.sleep(0.1)
    return {"stopped": [*names, "supervisord"]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["free", "running", "stopped"], "default": "running"},
            "configuration": {"type": "path", "required": True},
            "python": {"type": "path"},
            "instances": {"type": "dict", "default": {}},
        },
        required_if=[("state", "running", ["python"])],
        supports_check_mode=True,
    )
    act = {"free": require_free, "running": run, "stopped": stop}[module.params["state"]]
    try:
        result = {"started": [], "restarted": [], "stopped": [], "removed": [], **act(module.params, module.check_mode)}
        if module.params["state"] == "running":
            result["removed"] = remove_leftovers(module.params, module.check_mode)
    except SuperviseError as error:
        module.fail_json(msg=str(error))
    except xmlrpc.client.Fault as error:
        module.fail_json(msg=f"supervisord refuses: {error.faultString}; its log is supervisord.log beside the others")
    module.exit_json(changed=any(result.values()), **result)


if __name__ == "__main__":
    main()
