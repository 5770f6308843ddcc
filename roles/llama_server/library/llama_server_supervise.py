#!/usr/bin/python
"""Ansible module: llama-server instances under supervisor, as its configuration file says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_supervise
short_description: Run llama-server instances under supervisor
description:
  - With C(state=running), starts supervisord when it does not run, restarts the programs whose configuration changed,
    starts those that stopped and ends those that are no longer in the file. A port that another process holds is
    reported before anything is stopped.
  - With C(state=stopped), stops the programs and supervisord.
  - A program that supervisor calls running may still be loading, or about to fail; M(llama_server_verify) tells.
options:
  state:
    description: Whether the instances should run.
    choices: [running, stopped]
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
    description: The names of the file's instances. What one is stands in NAME/instance.json beside the file.
    type: list
    elements: str
    default: []
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Run what the file says
  llama_server_supervise:
    configuration: /opt/llama-nexus/instances/supervisord.conf
    python: /opt/llama-nexus/tools/bin/python
    instances: [main]
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
"""

import http.client
import json
import os
import socket
import subprocess
import time
import xmlrpc.client

from ansible.module_utils.basic import AnsibleModule

ALIVE = ("STARTING", "RUNNING")
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
            return holder(port) or f"another process ({error.strerror})"
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
        inodes |= {
            row[9] for row in rows if row[3] == listening and int(row[1].rsplit(":", 1)[1], 16) == port
        }
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


def require_free(folder: str, names: set[str], supervised: dict[str, dict]) -> None:
    """Refuse when a port that an instance needs is held by anything but the servers that make way for it."""
    making_way = tuple(f"process {supervised[name]['pid']} " for name in names if name in supervised)
    for name in sorted(names):
        path = os.path.join(folder, name, "instance.json")
        if not os.path.exists(path):  # check mode on a bare host
            continue
        with open(path, encoding="utf-8") as stream:
            instance = json.load(stream)
        taken = listener(instance["host"], instance["port"])
        if taken and not taken.startswith(making_way):
            raise SuperviseError(
                f"port {instance['port']} on {instance['host']} is taken by {taken}: end it, or give instance {name} "
                "another port"
            )


def start_supervisord(python: str, configuration: str, socket_path: str) -> xmlrpc.client.ServerProxy:
    done = subprocess.run(
        [python, "-m", "supervisor.supervisord", "--configuration", configuration],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip
    for _ in range(100):
        proxy = connect(socket_path)
        if proxy:
            return proxy
        time.sleep(0.1)
    said = done.stdout.decode(errors="replace").strip().splitlines()
    raise SuperviseError(f"supervisord does not start from {configuration}: {' / '.join(said[-3:])}")


def run(params: dict, check_mode: bool) -> dict:
    folder = os.path.dirname(params["configuration"])
    socket_path = os.path.join(folder, "supervisor.sock")
    names = set(params["instances"])
    result: dict = {"started": [], "restarted": [], "stopped": []}
    proxy = connect(socket_path)
    if proxy is None:
        require_free(folder, names, {})
        result["started"] = sorted(names)
        if not check_mode:
            start_supervisord(params["python"], params["configuration"], socket_path)
        return result

    supervised = {info["group"]: info for info in proxy.supervisor.getAllProcessInfo()}
    # Reading the file again applies nothing; it says what differs from what runs.
    added, changed, removed = ([], [], []) if check_mode else proxy.supervisor.reloadConfig()[0]
    down = [name for name, info in supervised.items() if info["statename"] not in ALIVE and name in names]
    require_free(folder, {*added, *changed, *down}, supervised)
    for name in [*removed, *changed]:
        proxy.supervisor.stopProcessGroup(name)
        proxy.supervisor.removeProcessGroup(name)
    for name in [*changed, *added]:
        proxy.supervisor.addProcessGroup(name)  # autostart starts it
    for name in down:
        if name not in changed:
            if not check_mode:
                proxy.supervisor.startProcess(name, False)
            added = [*added, name]
    result.update(started=sorted(added), restarted=sorted(changed), stopped=sorted(removed))
    return result


def stop(params: dict, check_mode: bool) -> dict:
    socket_path = os.path.join(os.path.dirname(params["configuration"]), "supervisor.sock")
    proxy = connect(socket_path)
    if proxy is None:
        return {"started": [], "restarted": [], "stopped": []}
    names = sorted(
        info["name"] for info in proxy.supervisor.getAllProcessInfo() if info["statename"] in ALIVE
    )
    if not check_mode:
        proxy.supervisor.shutdown()
        while connect(socket_path):  # until the shutdown has begun; connect waits for its end
            time.sleep(0.1)
    return {"started": [], "restarted": [], "stopped": names, "changed": True}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["running", "stopped"], "default": "running"},
            "configuration": {"type": "path", "required": True},
            "python": {"type": "path"},
            "instances": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", "running", ["python"])],
        supports_check_mode=True,
    )
    act = run if module.params["state"] == "running" else stop
    try:
        result = act(module.params, module.check_mode)
    except SuperviseError as error:
        module.fail_json(msg=str(error))
    except xmlrpc.client.Fault as error:
        module.fail_json(
            msg=f"supervisord refuses: {error.faultString}; its log is supervisord.log beside the others"
        )
    changed = result.pop("changed", False) or any(result.values())
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
