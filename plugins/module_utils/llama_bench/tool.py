"""One tool, run to its end: as the server's own user, gone with the module. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import re
import selectors
import signal
import subprocess
from collections import deque
from typing import Any

from .errors import Refused
from .log import Log

PR_SET_PDEATHSIG = 1
PROGRESS = re.compile(r"llama-bench: benchmark \d+/\d+: (.+)")

libc = ctypes.CDLL(None)


def run_tool(
    number: int, argv: list[str], instance: dict[str, Any], user: str, lock: int, log: Log, last_lines: deque[str]
) -> int:
    """Run one tool to its end: its exit status, negative where a signal ended it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    environment |= instance["environment"]
    if instance.get("gpus"):  # a container was given these alone, and not by a variable
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(instance["gpus"])}
    own = identity(instance, user)
    if own:
        environment["HOME"] = "/nonexistent"
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, pass_fds=[lock], preexec_fn=end_with_the_module,
            **own,
        )  # fmt: skip
    except OSError as error:
        raise Refused(f"{argv[0]} can't be run ({error.strerror}): look at its folder's permissions") from error
    # Where memory runs out it is the first to go, a server must not. From here: as another user it can't say so itself.
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")
    results = 0
    with selectors.DefaultSelector() as selector:
        left = {}
        for pipe in (process.stdout, process.stderr):
            if pipe:
                selector.register(pipe, selectors.EVENT_READ)
                left[pipe.fileno()] = b""
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                *lines, left[key.fd] = (left[key.fd] + data + (b"" if data else b"\n")).split(b"\n")
                for text in (line.decode(errors="replace").strip() for line in lines):
                    progress = PROGRESS.fullmatch(text)
                    if progress or (text.startswith("{") and key.fileobj is process.stdout):
                        results += 0 if progress else 1
                        log.add(number, text)
                        log.show(progress[1] if progress else f"{results} measured")
                    elif text:
                        last_lines.append(text)
    return process.wait()


def end_with_the_module() -> None:
    """Runs in the child."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def identity(instance: dict[str, Any], user: str) -> dict[str, Any]:
    """Whom a tool runs as: the server's own user, which is who deploys where the instance names none."""
    name = user if instance["runtime"] == "systemd" else instance.get("user")
    if not name or os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(name)
    groups = [group.gr_gid for group in grp.getgrall() if name in group.gr_mem]
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
