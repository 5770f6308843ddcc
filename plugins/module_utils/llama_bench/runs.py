"""Runs: one at a time on a host, begun, and ended from outside. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import deque
from typing import Any

from ..hostlib import locks
from .errors import Refused
from .host_state import gpus_of_host, host_of
from .log import Log
from .tool import run_tool

LAST_LINES = 20
END_SECONDS = 60.0  # for the kernel to take back gigabytes of memory


def measure(params: dict[str, Any]) -> dict[str, Any]:
    """Run the commands until one fails."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(_locked(params["folder"], params["run"], wait=0))
        except locks.LockHeld as error:
            raise Refused(
                f"another llama-bench or llama-batched-bench measures on this host, {error.holder}: wait until it has "
                "ended"
            ) from error
        if _ended_run(params["folder"]) == params["run"]:  # while the job was on its way
            raise Refused("the run was ended before it began")
        try:
            with open(os.path.join(params["instance"], "verified", "instance.json"), encoding="utf-8") as stream:
                instance = json.load(stream)
        except FileNotFoundError:
            raise Refused(f"{params['instance']} has nothing that was proven: deploy again") from None
        for argv in params["commands"]:
            if not os.path.exists(argv[0]):
                raise Refused(f"the release has no {argv[0]}: name it in llama_cpp_targets and deploy again")
        gpu_rows = gpus_of_host()
        log, status = Log(params["folder"], params["run"]), 0
        last_lines: deque[str] = deque(maxlen=LAST_LINES)
        for number, argv in enumerate(params["commands"]):
            status = run_tool(number, argv, instance, params["user"], lock, log, last_lines)
            if status != 0:
                break
    return {
        "lines": log.lines,
        "status": status,
        "said": list(last_lines),
        "begun_at": log.begun_at,
        **host_of(gpu_rows),
    }


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
            with _locked(folder, run, wait=END_SECONDS):
                pass
    except locks.LockHeld as error:
        raise Refused(f"the tool of run {run} does not end: look at the host") from error
    try:
        with open(os.path.join(folder, "lines.jsonl"), encoding="utf-8") as stream:
            # The last line may have been cut off.
            head, *lines = [json.loads(line) for line in stream if line.endswith("\n")]
    except (FileNotFoundError, ValueError):
        return {"lines": []}
    return {"lines": lines, "begun_at": head["begun_at"]} if head["run"] == run else {"lines": []}


def _ended_run(folder: str) -> str | None:
    """The run that was ended last."""
    try:
        with open(os.path.join(folder, "ended"), encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def _locked(folder: str, run: str, wait: float) -> contextlib.AbstractContextManager[int]:
    """Hold the folder's lock."""
    return locks.held(os.path.join(folder, "lock"), f"run {run}", wait=wait)
