#!/usr/bin/python
"""Ansible module: run llama.cpp's measuring tools, or end a run of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_bench
short_description: Run llama-bench or llama-batched-bench beside an instance
description:
  - Runs command lines one after another and keeps what they print. A run that fails is no failure of the module.
  - The folder's lock is held as long as the module or a tool of it lives, so there is one run at a time.
options:
  action:
    description: Whether to measure, or to end a run.
    choices: [run, end]
    type: str
    required: true
  run:
    description: What the run is called.
    type: str
    required: true
  folder:
    description: Where the lock, the progress and the lines of the last run are.
    type: path
    required: true
  instance:
    description: The folder of the instance whose environment and user the tools get.
    type: path
  commands:
    description: Lists of words.
    type: list
    elements: list
    default: []
  user:
    description: The user of servers under systemd.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Measure
  llama.nexus.llama_bench:
    action: run
    run: 5f0c2a
    folder: /opt/llama-nexus/bench
    instance: /opt/llama-nexus/instances/main
    commands: [[/opt/llama-nexus/current/bin/llama-bench, -m, /opt/llama-nexus/models/model.gguf, -o, jsonl]]
    user: llama-server
"""
RETURN = r"""
measured:
  description:
    - C(lines) and C(begun_at) on the host's monotonic clock, and where the run came to its end also C(status), C(said),
      C(gpus) and C(host_state).
  returned: always
  type: dict
"""

import contextlib
import ctypes
import grp
import json
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib import locks
from ..module_utils.hostlib.process import begin

SAID_LINES = 20
END_SECONDS = 60.0  # for the kernel to take back gigabytes of memory
PR_SET_PDEATHSIG = 1
PROGRESS = re.compile(r"llama-bench: benchmark \d+/\d+: (.+)")
GPU_FIELDS = ("index", "name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"

libc = ctypes.CDLL(None)


class Refused(Exception):
    """Why nothing was measured."""


class Log:
    """The lines of a run, in memory and in a file that outlives it."""

    def __init__(self, folder: str, run: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._progress = os.path.join(folder, "progress")
        self._path = os.path.join(folder, "lines.jsonl")
        self.begun_at = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._write({"run": run, "begun_at": self.begun_at})
        self.show("loading the model")

    def add(self, command: int, text: str) -> None:
        """Keep a line, with the second of the run in which it came."""
        line = {"command": command, "t_s": round(time.monotonic() - self.begun_at, 6), "text": text}
        self.lines.append(line)
        self._write(line)

    def show(self, text: str) -> None:
        """Write the line that people see."""
        with open(self._progress + ".new", "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.replace(self._progress + ".new", self._progress)

    def _write(self, row: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def locked(folder: str, run: str, wait: float) -> contextlib.AbstractContextManager[int]:
    """Hold the folder's lock."""
    return locks.held(os.path.join(folder, "lock"), f"run {run}", wait=wait)


def measure(params: dict[str, Any]) -> dict[str, Any]:
    """Run the commands until one fails."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(params["folder"], params["run"], wait=0))
        except locks.Busy as error:
            raise Refused(
                f"another llama-bench or llama-batched-bench measures on this host, {error.holder}: wait until it has "
                "ended"
            ) from error
        if ended_run(params["folder"]) == params["run"]:  # while the job was on its way
            raise Refused("the run was ended before it began")
        try:
            with open(os.path.join(params["instance"], "verified", "instance.json"), encoding="utf-8") as stream:
                instance = json.load(stream)
        except FileNotFoundError:
            raise Refused(f"{params['instance']} has nothing that was proven: deploy again") from None
        for argv in params["commands"]:
            if not os.path.exists(argv[0]):
                raise Refused(f"the release has no {argv[0]}: name it in llama_cpp_targets and deploy again")
        gpus = gpus_of_host()
        log, said, status = Log(params["folder"], params["run"]), deque(maxlen=SAID_LINES), 0
        for number, argv in enumerate(params["commands"]):
            status = run_tool(number, argv, instance, params["user"], lock, log, said)
            if status != 0:
                break
    return {"lines": log.lines, "status": status, "said": list(said), "begun_at": log.begun_at, **host_of(gpus)}


def run_tool(
    number: int, argv: list[str], instance: dict[str, Any], user: str, lock: int, log: Log, said: deque[str]
) -> int:
    """Run one tool to its end: its exit status, negative where a signal ended it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    environment |= instance["environment"]
    if instance.get("gpus"):  # a container was given these alone, and not by a variable
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(instance["gpus"])}
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, pass_fds=[lock], preexec_fn=end_with_the_module,
            **identity(instance["runtime"], user),
        )  # fmt: skip
    except OSError as error:
        raise Refused(f"{argv[0]} can't be run ({error.strerror}): look at its folder's permissions") from error
    # Where memory runs out it is the first to go, a server must not. From here: as another user it can't say so itself.
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")
    results = 0
    with selectors.DefaultSelector() as selector:
        left = {process.stdout: b"", process.stderr: b""}
        for stream in left:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.fileobj
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(stream)
                *lines, left[stream] = (left[stream] + data + (b"" if data else b"\n")).split(b"\n")
                for text in (line.decode(errors="replace").strip() for line in lines):
                    told = PROGRESS.fullmatch(text)
                    if told or (text.startswith("{") and stream is process.stdout):
                        results += 0 if told else 1
                        log.add(number, text)
                        log.show(told[1] if told else f"{results} measured")
                    elif text:
                        said.append(text)
    return process.wait()


def end_with_the_module() -> None:
    """Runs in the child."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def identity(runtime: str, user: str) -> dict[str, Any]:
    """Whom a tool runs as: the server's own user under systemd, else who deploys."""
    if runtime != "systemd" or os.geteuid() != 0:
        return {}
    found = pwd.getpwnam(user)
    groups = [group.gr_gid for group in grp.getgrall() if user in group.gr_mem]
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}


def gpus_of_host() -> list[dict[str, str]]:
    """What nvidia-smi tells of the GPUs; none where there is no driver."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=" + ",".join(GPU_FIELDS), "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.decode(errors="replace").splitlines()]
    return [dict(zip(GPU_FIELDS, row)) for row in rows if len(row) == len(GPU_FIELDS)]


def host_of(gpus: list[dict[str, str]]) -> dict[str, Any]:
    """``gpus`` and ``host_state`` as a benchmark's header has them."""

    def number(text: str) -> float | None:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None  # unified memory is [N/A]

    try:
        with open(GOVERNOR, encoding="ascii") as stream:
            governor = stream.read().strip()
    except OSError:
        governor = None
    rows = []
    for gpu in gpus:
        memory = number(gpu["memory.total"])
        total = None if memory is None else int(memory)
        rows.append({"index": int(gpu["index"]), "name": gpu["name"], "driver": gpu["driver_version"],
                     "memory_total_mib": total})  # fmt: skip
    state = {
        "driver": gpus[0]["driver_version"] if gpus else None,
        "power_limit_w": [number(gpu["power.limit"]) for gpu in gpus] or None,
        "clocks_max_mhz": [number(gpu["clocks.max.sm"]) for gpu in gpus] or None,
        "governor": governor,
    }
    return {"gpus": rows, "host_state": state}


def ended_run(folder: str) -> str | None:
    """The run that was ended last."""
    try:
        with open(os.path.join(folder, "ended"), encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def end(params: dict[str, Any]) -> dict[str, Any]:
    """Have no tool of the run running, and none begin: the lines that it printed."""
    folder, run = params["folder"], params["run"]
    os.makedirs(folder, mode=0o755, exist_ok=True)
    # Before a look at the lock, as the other takes the lock before a look at this: one of them sees the other.
    with open(os.path.join(folder, "ended"), "w", encoding="utf-8") as stream:
        stream.write(run)
    try:
        holder = locks.holder(os.path.join(folder, "lock"))
        if holder and holder.pid and holder.what == f"run {run}":
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)  # and the tool with it
            with locked(folder, run, wait=END_SECONDS):
                pass
    except locks.Busy as error:
        raise Refused(f"the tool of run {run} does not end: look at the host") from error
    try:
        with open(os.path.join(folder, "lines.jsonl"), encoding="utf-8") as stream:
            # The last line may have been cut off.
            head, *lines = [json.loads(line) for line in stream if line.endswith("\n")]
    except (FileNotFoundError, ValueError):
        return {"lines": []}
    return {"lines": lines, "begun_at": head["begun_at"]} if head["run"] == run else {"lines": []}


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "choices": ["run", "end"], "required": True},
            "run": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "instance": {"type": "path"},
            "commands": {"type": "list", "elements": "list", "default": []},
            "user": {"type": "str"},
        },
        required_if=[("action", "run", ["instance", "commands", "user"])],
    )
    try:
        measured = {"run": measure, "end": end}[module.params["action"]](module.params)
    except (Refused, locks.LockError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(changed=False, measured=measured)


if __name__ == "__main__":
    main()
