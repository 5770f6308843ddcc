"""Checks of placement (offloading): weights and caches as logged, as the driver says, and as declared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from ...hostlib.argv import values_of
from ...hostlib.buffers import is_host
from ...hostlib.instances import ModelFile, Placement
from ..gpus import held_memory
from ..processes import family
from .checks import Checks
from .input_tensors import input_mib
from .memory_log import loads_in, placement
from .planned_memory import compare_with_plan
from .subject import Subject

# Arguments that put weights or caches into host memory on purpose, in every spelling: a router
# tells its models' in its own.
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


ROUTER_LINES = 100_000  # of the end of a router's log


def prove_placement(subject: Subject) -> None:
    """Compare where an instance's layers, experts and caches went with what was declared."""
    config, status, row = subject.config, subject.status, subject.row
    placed = _placed(subject, f"{config.id} {status.life}", lambda: subject.runtime.log(config.name))
    stored = placed.as_json()
    row["offloaded"], row["buffers_mib"] = stored["offloaded"], stored["buffers_mib"]
    compare_with_plan(subject, {"": placed.buffers_mib})
    if config.uses_gpu and config.model:
        path, side = config.model.path, config.side_models
        _prove_layers(path, side, config.n_gpu_layers, config.argv, placed, subject.checks)
        _prove_process(subject)


def prove_router_placement(subject: Subject, served: dict[str, list[str]], loaded: set[str]) -> None:
    """The same for each model that a router served: a process of its own, with a port of its own.

    Args:
        served: by model its command line, as the router tells it.
        loaded: those that still are; the others made room.
    """
    config, status, row = subject.config, subject.status, subject.row
    logs = _router_logs(subject) if served else ()
    loads = {}
    for name, argv in sorted(served.items()):
        port = argv[argv.index("--port") + 1]
        lines = next(filter(None, (_of_model(log, name, port) for log in logs)), [])
        placed = _placed(subject, f"{config.id} {status.life} {name} {port}", functools.partial(list, lines))
        loads[name] = placed.buffers_mib
        for device, sizes in placed.buffers_mib.items() if name in loaded else ():
            whole = row["buffers_mib"].setdefault(device, {})
            for kind, size in sizes.items():
                whole[kind] = round(whole.get(kind, 0.0) + size, 2)
        model = config.models[name]
        if model.uses_gpu:
            _prove_layers(model.path, model.side_models, model.n_gpu_layers, argv, placed, subject.checks, f"{name} ")
    compare_with_plan(subject, loads)
    if config.uses_gpu:
        _prove_process(subject)


def _router_logs(subject: Subject) -> tuple[list[str], list[str]]:
    """The last and the first lines that a router wrote: its models load whenever somebody asks for them."""
    last = subject.runtime.log(subject.config.name, ROUTER_LINES)
    begun = [number for number, line in enumerate(last) if line.startswith("launch: ")]
    return last[begun[-1] if begun else 0 :], subject.runtime.log(subject.config.name)


def _of_model(log: list[str], name: str, port: str) -> list[str]:
    """The lines of a router's model: each behind the port, which an earlier one may have had (server-models.cpp)."""
    spawned = [at for at, line in enumerate(log) if line.endswith(f" name={name} on port {port}")]
    since = log[spawned[-1] :] if spawned else []
    return [line.partition("]")[2] for line in since if line.startswith(f"[{port.rjust(5)}]")]


def _placed(subject: Subject, life: str, log: Callable[[], list[str]]) -> Placement:
    """The placement that a process logged when it loaded. It is kept with the proof: logs are rotated, and a server may
    write a thousand lines a request.

    Of a process that began since the last proof, and whose log has lost its beginning, nothing tells the layers. It is
    of the same generation, and what it holds on the GPU is compared all the same.
    """
    kept = subject.folder.last_proof().placements
    placed = kept.get(life)
    if placed is None or not placed.buffers_mib:
        lines = log()
        placed, is_whole = placement(lines), bool(loads_in(lines))
        generation, _, *model = life.split(" ")
        of_same = [
            known for of, known in kept.items()
            if of.split(" ")[0] == generation and of.split(" ")[2:3] == model[:1] and known.buffers_mib
        ]  # fmt: skip
        if of_same and not placed.buffers_mib and not is_whole:
            placed = of_same[-1]
            subject.checks.warn(
                "placement", "as it was proven", "its log has lost its beginning: the process before it was placed so"
            )
    subject.row["placements"][life] = placed.as_json()
    return placed


def _prove_layers(
    path: str, side: Sequence[ModelFile], wanted: int | None, argv: Sequence[str], placed: Placement, checks: Checks,
    prefix: str = "",
) -> None:  # fmt: skip
    quiet = "the log has no line about it: the server found no GPU, or log_verbosity is below 4"
    done, layers = placed.offloaded or (0, 0)
    expected = layers if wanted is None or wanted < 0 or wanted >= layers else wanted
    checks.add(
        f"{prefix}layers on the GPU", f"{expected}/{layers}" if layers else "all",
        f"{done}/{layers}" if layers else "none", bool(layers) and done == expected,
        quiet if not layers else "they did not fit its memory: lower ctx_size or n_gpu_layers, or set fit: off",
    )  # fmt: skip
    projector = placed.projector
    moved = "--no-mmproj-offload" in argv or "none" in values_of(argv, PROJECTOR_DEVICE)
    if projector and not moved:
        cause = "the server chose the processor: declare --no-mmproj-offload in extra_args if that is wanted"
        checks.add(f"{prefix}projector", "on a GPU", projector, not is_host(projector), cause)
    if layers and done == layers:
        _prove_host_memory([path, *(model.path for model in side)], argv, placed.buffers_mib, checks, prefix)


def _prove_process(subject: Subject) -> None:
    """Compare what the server says it holds on GPUs with what the driver says."""
    row, checks = subject.row, subject.checks
    logged_mib = sum(sum(sizes.values()) for device, sizes in row["buffers_mib"].items() if not is_host(device))
    held = held_memory(family(subject.status.pid), logged_mib * 0.9)
    row["gpu_processes_mib"] = held.mib
    if held.mib is None and logged_mib:
        checks.warn("process on the GPU", "not to be seen", f"{held.why}: what the log says of buffers has to do")
    elif held.mib is not None and logged_mib:
        checks.add(
            "process on the GPU", f"at least {logged_mib * 0.9:.0f} MiB", f"{sum(held.mib.values()):.0f} MiB",
            sum(held.mib.values()) >= logged_mib * 0.9, "nvidia-smi does not show this process with that memory",
        )  # fmt: skip


def _prove_host_memory(
    paths: list[str], argv: Sequence[str], buffers: Mapping[str, Mapping[str, float]], checks: Checks, prefix: str
) -> None:
    """With all layers on the GPU, experts and caches may still be in host memory: it looks well and is slow."""
    allowed = {"model": sum(map(input_mib, paths)), "kv": 0.0}
    declared = put_on_host(argv)
    for kind, what in (("model", f"{prefix}weights in host memory"), ("kv", f"{prefix}caches in host memory")):
        host_mib = sum(sizes.get(kind, 0.0) for device, sizes in buffers.items() if is_host(device))
        if host_mib <= allowed[kind] * 1.02 + 1:
            checks.add(what, f"at most {allowed[kind]:.0f} MiB", f"{host_mib:.0f} MiB", True, "")
        elif declared:
            checks.warn(
                what, f"{host_mib:.0f} MiB", f"declared by {', '.join(declared)}: many times slower than on the GPU"
            )
        else:
            checks.add(
                what, f"at most {allowed[kind]:.0f} MiB", f"{host_mib:.0f} MiB", False,
                "the server put them on the processor to make the rest fit: lower ctx_size, or set fit: off",
            )  # fmt: skip


def put_on_host(argv: Sequence[str]) -> list[str]:
    """The arguments that put weights or caches into host memory on purpose."""
    flags = set(argv) & TO_HOST
    # A draft model that is to lie on the processor, wholly or in part.
    if "none" in values_of(argv, DRAFT_DEVICE):
        flags |= set(argv) & DRAFT_DEVICE
    if any(value.isdigit() and int(value) < 99 for value in values_of(argv, DRAFT_LAYERS)):
        flags |= set(argv) & DRAFT_LAYERS
    return sorted(flags)
