"""Where a server's weights and caches are: what it logs, what the driver says, what was declared."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import shutil
import struct
from collections.abc import Callable
from typing import Any, ClassVar

from .host import Config, Folder, HostError, read_json
from .runtimes import Runtime, Status, attempt

MIB = 1024 * 1024

# What llama.cpp prints of its memory at --log-verbosity 4, behind the device's name.
BUFFER = re.compile(r":\s+(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
PROJECTOR = re.compile(r"CLIP using (\S+) backend")
KINDS = {"model": "model", "KV": "kv", "RS": "kv", "compute": "compute", "output": "compute"}
# Arguments that put weights or caches into host memory on purpose, in every spelling: a router tells its models' in its
# own.
TO_HOST = frozenset(
    [
        "--n-cpu-moe", "-ncmoe", "--cpu-moe", "-cmoe", "--override-tensor", "-ot", "--no-kv-offload", "-nkvo",
        "--spec-draft-cpu-moe", "-cmoed", "--cpu-moe-draft", "--spec-draft-n-cpu-moe", "--spec-draft-ncmoe", "-ncmoed",
        "--n-cpu-moe-draft", "--spec-draft-override-tensor", "-otd", "--override-tensor-draft",
    ]
)  # fmt: skip
DRAFT_DEVICE = frozenset(["--device-draft", "--spec-draft-device", "-devd"])
PROJECTOR_DEVICE = frozenset(["--mmproj-device", "-mmdev"])
DRAFT_LAYERS = frozenset(["--n-gpu-layers-draft", "--gpu-layers-draft", "--spec-draft-ngl", "-ngld"])
# Files that say that this is a container, where the driver may not show our own processes.
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
# Tensors of the input, which llama.cpp keeps on the processor whatever is offloaded.
INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd", "altup", "conv1d")


class Proof:
    """The table of what was compared."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []

    def compare(self, check: str, expected: object, found: object, cause: str) -> None:
        self.add(check, expected, found, expected == found, cause)

    def add(self, check: str, expected: object, found: object, ok: bool, cause: str) -> None:
        row = {"check": check, "expected": expected, "found": found, "ok": ok, "cause": "" if ok else cause}
        self.checks.append(row)

    def warn(self, check: str, found: object, cause: str) -> None:
        """Something declared that its reader should see, although it is no failure."""
        self.checks.append({"check": check, "expected": found, "found": found, "ok": True, "cause": cause})

    def failures(self) -> list[str]:
        return [
            f"{row['check']}: expected {row['expected']}, found {row['found']} ({row['cause']})"
            for row in self.checks
            if not row["ok"]
        ]


def prove_placement(
    config: Config, status: Status, runtime: Runtime, folder: Folder, proof: Proof, row: dict[str, Any]
) -> None:
    """Compare where an instance's layers, experts and caches went with what was declared."""
    found = _placed(f"{config['id']} {status.life}", folder, row, lambda: runtime.log(config["name"]))
    row["offloaded"], row["buffers_mib"] = found["offloaded"], found["buffers_mib"]
    if config["uses_gpu"]:
        path, side = config["model"]["path"], config["side_models"]
        _prove_layers(path, side, config["n_gpu_layers"], config["argv"], found, proof)
        _prove_process(status.pid, row, proof)


def prove_router_placement(
    config: Config, status: Status, runtime: Runtime, folder: Folder, served: dict[str, list[str]], loaded: set[str],
    proof: Proof, row: dict[str, Any],
) -> None:  # fmt: skip
    """The same for each model that a router served: a process of its own, with a port of its own.

    Args:
        served: by model its command line, as the router tells it.
        loaded: those that still are; the others made room.
        config, status, runtime, folder, proof, row: as for prove_placement.
    """
    log: list[str] = []
    for name, argv in sorted(served.items()):
        port = argv[argv.index("--port") + 1]
        if not log:
            log = runtime.log(config["name"])
        # The router passes on what its models say, each line behind the port, which an earlier one may have had
        # (server-models.cpp).
        spawned = [at for at, line in enumerate(log) if line.endswith(f" name={name} on port {port}")]
        since = log[spawned[-1] :] if spawned else []
        lines = [line.partition("]")[2] for line in since if line.startswith(f"[{port.rjust(5)}]")]
        found = _placed(f"{config['id']} {status.life} {name} {port}", folder, row, functools.partial(list, lines))
        for device, sizes in found["buffers_mib"].items() if name in loaded else ():
            whole = row["buffers_mib"].setdefault(device, {})
            for kind, size in sizes.items():
                whole[kind] = round(whole.get(kind, 0.0) + size, 2)
        model = config["models"][name]
        if model["uses_gpu"]:
            _prove_layers(model["path"], model["side_models"], model["n_gpu_layers"], argv, found, proof, f"{name} ")
    if config["uses_gpu"]:
        _prove_process(status.pid, row, proof)


def _placed(life: str, folder: Folder, row: dict[str, Any], log: Callable[[], list[str]]) -> dict[str, Any]:
    """What one process said of its memory when it loaded; remembered, since its log may have been rotated since."""
    last = read_json(folder.file("proof.json")) or {}
    found: dict[str, Any] = (last.get("placements") or {}).get(life) or {}
    if not found.get("buffers_mib"):
        found = dict(zip(("offloaded", "buffers_mib", "projector"), placement(log())))
    row["placements"][life] = found
    return found


def _prove_layers(
    path: str, side: list[dict[str, Any]], wanted: int | None, argv: list[str], found: dict[str, Any], proof: Proof,
    prefix: str = "",
) -> None:  # fmt: skip
    quiet = "the log has no line about it: the server found no GPU, or log_verbosity is below 4"
    done, layers = found["offloaded"] or (0, 0)
    expected = layers if wanted is None or wanted < 0 or wanted >= layers else wanted
    proof.add(
        f"{prefix}layers on the GPU", f"{expected}/{layers}" if layers else "all",
        f"{done}/{layers}" if layers else "none", bool(layers) and done == expected,
        quiet if not layers else "they did not fit its memory: lower ctx_size or n_gpu_layers, or set fit: off",
    )  # fmt: skip
    projector = found.get("projector")
    moved = "--no-mmproj-offload" in argv or "none" in _values(argv, PROJECTOR_DEVICE)
    if projector and not moved:
        cause = "the server chose the processor: declare --no-mmproj-offload in extra_args if that is wanted"
        proof.add(f"{prefix}projector", "on a GPU", projector, not is_host(projector), cause)
    if layers and done == layers:
        _prove_host_memory([path, *(model["path"] for model in side)], argv, found["buffers_mib"], proof, prefix)


def _prove_process(pid: int | None, row: dict[str, Any], proof: Proof) -> None:
    """Compare what the server says it holds on GPUs with what the driver says."""
    row["gpu_processes_mib"] = held = gpu_memory(family(pid))
    said = sum(sum(sizes.values()) for device, sizes in row["buffers_mib"].items() if not is_host(device))
    if held is None and said:
        proof.warn("process on the GPU", "not to be seen", "nvidia-smi lists no processes here, as in a container")
    elif held is not None and said:
        proof.add(
            "process on the GPU", f"at least {said * 0.9:.0f} MiB", f"{sum(held.values()):.0f} MiB",
            sum(held.values()) >= said * 0.9, "nvidia-smi does not show this process with that memory",
        )  # fmt: skip


def _prove_host_memory(
    paths: list[str], argv: list[str], buffers: dict[str, dict[str, float]], proof: Proof, prefix: str
) -> None:
    """With all layers on the GPU, experts and caches may still be in host memory: it looks well and is slow."""
    allowed = {"model": sum(map(input_mib, paths)), "kv": 0.0}
    declared = put_on_host(argv)
    for kind, what in (("model", f"{prefix}weights in host memory"), ("kv", f"{prefix}caches in host memory")):
        found = sum(sizes.get(kind, 0.0) for device, sizes in buffers.items() if is_host(device))
        if found <= allowed[kind] * 1.02 + 1:
            proof.add(what, f"at most {allowed[kind]:.0f} MiB", f"{found:.0f} MiB", True, "")
        elif declared:
            proof.warn(
                what, f"{found:.0f} MiB", f"declared by {', '.join(declared)}: many times slower than on the GPU"
            )
        else:
            proof.add(
                what, f"at most {allowed[kind]:.0f} MiB", f"{found:.0f} MiB", False,
                "the server put them on the processor to make the rest fit: lower ctx_size, or set fit: off",
            )  # fmt: skip


def put_on_host(argv: list[str]) -> list[str]:
    """The arguments that put weights or caches into host memory on purpose."""
    found = set(argv) & TO_HOST
    # A draft model that is to lie on the processor, wholly or in part.
    if "none" in _values(argv, DRAFT_DEVICE):
        found |= set(argv) & DRAFT_DEVICE
    if any(value.isdigit() and int(value) < 99 for value in _values(argv, DRAFT_LAYERS)):
        found |= set(argv) & DRAFT_LAYERS
    return sorted(found)


def _values(argv: list[str], flags: frozenset[str]) -> list[str]:
    """The words that follow one of these flags."""
    return [value for flag, value in zip(argv, argv[1:]) if flag in flags]


def family(pid: int | None) -> set[int]:
    """A process and those that it started, as a router starts one for each model."""
    found, new = set(), {pid} if pid else set()
    while new:
        found |= new
        children: set[int] = set()
        for parent in new:
            for path in glob.glob(f"/proc/{parent}/task/*/children"):
                with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
                    children |= set(map(int, stream.read().split()))
        new = children - found
    return found


def is_host(device: str) -> bool:
    """Whether a buffer's name is one of the processor's: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host."""
    return device.startswith("CPU") or device.endswith("_Host")


def placement(log: list[str]) -> tuple[list[int] | None, dict[str, dict[str, float]], str | None]:
    """What a server's log says of memory: layers offloaded and offered, MiB by device and kind, the projector's device.

    A draft model's or a projector's buffers are added to the model's on the same device.
    """
    offloaded: list[int] | None = None
    buffers: dict[str, dict[str, float]] = {}
    projector = None
    for line in log:
        used = PROJECTOR.search(line)
        if used:
            projector = used[1]
        layers = OFFLOADED.search(line)
        if layers and offloaded is None:  # the first is the model's; a draft model says it again
            offloaded = [int(layers[1]), int(layers[2])]
        found = BUFFER.search(line)
        if found:
            sizes = buffers.setdefault(found[1], {})
            kind = KINDS[found[2]]
            sizes[kind] = round(sizes.get(kind, 0.0) + float(found[3]), 2)
    return offloaded, buffers, projector


def gpu_memory(pids: set[int]) -> dict[str, float] | None:
    """MiB that processes hold by GPU, as the driver says; None where it can't tell: no nvidia-smi, or in a container
    that does not see its own processes.
    """
    program = shutil.which("nvidia-smi")
    if not program or not pids:
        return None
    code, output = attempt(
        program, "--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader,nounits", timeout=60
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in output if line.count(",") == 2]
    seen = {int(row[0]) for row in rows if row[0].isdigit()}
    hidden = not any(os.path.exists(f"/proc/{number}") for number in seen) and any(map(os.path.exists, CONTAINER_MARKS))
    if code != 0 or hidden:
        return None
    held: dict[str, float] = {}
    for number, gpu, used in rows:
        if number.isdigit() and int(number) in pids and re.match(r"[\d.]+$", used):
            held[gpu] = held.get(gpu, 0.0) + float(used)
    return held


def input_mib(path: str) -> float:
    """MiB from the first to the last input tensor of a GGUF file: what llama.cpp maps for the processor at most.

    The layout is that of ggml's docs/gguf.md: header, metadata, then a name, shape, type and offset for each tensor.
    """
    with open(path, "rb") as stream:
        reader = _Gguf(stream)
        names = reader.tensors()
    end_of_data = os.path.getsize(path)
    offsets = [*sorted(offset for _, offset in names), end_of_data - reader.data_start]
    ends = dict(zip(offsets, offsets[1:]))
    spans = [(offset, ends[offset]) for name, offset in names if name.startswith(INPUT_TENSORS)]
    return (max(stop for _, stop in spans) - min(start for start, _ in spans)) / MIB if spans else 0.0


class _Gguf:
    """As much of a GGUF header as says where each tensor begins."""

    SIZES: ClassVar = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    STRING, ARRAY = 8, 9

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.alignment = 32
        self.data_start = 0

    def tensors(self) -> list[tuple[str, int]]:
        """Name and offset of each tensor. Raises HostError when this is not a GGUF file."""
        if self.stream.read(4) != b"GGUF":
            raise HostError(f"{self.stream.name} is not a GGUF file: fetch it again")
        self._number("<I")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        for _ in range(pairs):
            name = self._string()
            kind = self._number("<I")
            if name == "general.alignment":
                self.alignment = self._number("<I")
            else:
                self._skip(kind)
        found = []
        for _ in range(tensors):
            name = self._string()
            self.stream.seek(8 * self._number("<I") + 4, os.SEEK_CUR)
            found.append((name, self._number("<Q")))
        here = self.stream.tell()
        self.data_start = here + -here % self.alignment
        return found

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self.stream.read(struct.calcsize(form)))[0])

    def _string(self) -> str:
        return str(self.stream.read(self._number("<Q")).decode(errors="replace"))

    def _skip(self, kind: int) -> None:
        if kind == self.STRING:
            self.stream.seek(self._number("<Q"), os.SEEK_CUR)
        elif kind == self.ARRAY:
            of, count = self._number("<I"), self._number("<Q")
            if of in self.SIZES:
                self.stream.seek(self.SIZES[of] * count, os.SEEK_CUR)
            else:
                for _ in range(count):
                    self._skip(of)
        else:
            self.stream.seek(self.SIZES[kind], os.SEEK_CUR)
