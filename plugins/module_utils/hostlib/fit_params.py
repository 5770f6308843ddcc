"""Memory of a model by llama.cpp itself: its program llama-fit-params, asked with the headers of the model alone.

    first = lay_out(folder, [("m.gguf", 11_073_000_000)])       each header becomes a file of the true size, all hole
    ask(program, first, ["-c", "32768"])        [Device("CUDA0", 10694, 786, 448), Device("Host", 379, 0, 55)]

Nothing is loaded, and no memory of a GPU is taken but that of the driver's context. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PROGRAM = "llama-fit-params"
TIMEOUT_SECONDS = 120
ROW = re.compile(r"(\S+) (\d+) (\d+) (\d+) ?")
HOST = "Host"
LONGEST = 300  # letters of an error


class FitError(Exception):
    """No figures: why, in one line."""


class Device(NamedTuple):
    """Memory of a device in whole MiB, rounded down; the last one is the host."""

    name: str
    model_mib: int
    context_mib: int
    compute_mib: int


def lay_out(folder: str, sizes: Sequence[tuple[str, int]]) -> str:
    """Make the headers in a folder files of their models' sizes, without writing a byte of what follows.

    Args:
        sizes: name and size of each file of the model, the first one first.

    Returns the first one's path. Raises FitError where the file system has no such sizes.
    """
    for name, size in sizes:
        path = os.path.join(folder, name)
        try:
            if os.path.getsize(path) < size:
                os.truncate(path, size)
        except OSError as error:
            raise FitError(f"{path} can't be a file of {size} bytes with a hole: {error.strerror}") from error
    return os.path.join(folder, sizes[0][0])


def ask(
    program: str,
    model: str,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> list[Device]:
    """The memory that a model takes with some options, by device.

    Args:
        program: the path of llama-fit-params.
        environment: more variables for it; those that would be options of its own are dropped.
        identity: whom it runs as, in the words of module subprocess.

    Raises FitError.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    # By the bus, as nvidia-smi numbers them.
    variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_NO_BACKTRACE": "1", **variables, **(environment or {})}
    # The buffers of repacked weights are counted nowhere.
    argv = [program, "--fit-print", "on", "--no-repack", "-m", model, *words]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=variables, check=False, timeout=TIMEOUT_SECONDS,
            **(identity or {}),
        )  # fmt: skip
    except OSError as error:
        raise FitError(f"{program} can't be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise FitError(f"{program} did not end within {TIMEOUT_SECONDS} s") from error
    rows = [ROW.fullmatch(line.strip()) for line in done.stdout.decode(errors="replace").splitlines()]
    devices = [Device(row[1], int(row[2]), int(row[3]), int(row[4])) for row in rows if row]
    if done.returncode != 0 or not devices or devices[-1].name != HOST:
        reason = _reason(done.stderr.decode(errors="replace"), done.returncode)
        raise FitError(f"{PROGRAM} gives no figures: {reason}")
    return devices


def _reason(said: str, status: int) -> str:
    """The first line of the log that tells of an error, without its time and level; else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\d.]+ E |error", line)]
    chosen = errors[0] if errors else lines[-1] if lines else f"exit status {status}"
    return re.sub(r"^[\d.]+ [A-Z] ", "", chosen)[:LONGEST]
