"""The memory plan as JSON for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from nexus_tasks.core.text import MISSING, plural
from nexus_tasks.hostlib.terminal_text import plain

from .memory import HOST, DevicePlan, MemoryPlan
from .remedies import Remedy

DIGITS = 4


def as_json(plan: MemoryPlan, found: Sequence[Remedy], others: Sequence[str]) -> dict[str, Any]:
    """The plan as docs/memory.md describes it; figures are in MiB."""
    shape, context = plan.shape, plan.context
    return {
        "schema": 1,
        "engine": plan.engine,
        "model": {
            "name": shape.name,
            "file": shape.files[0].name,
            "architecture": shape.architecture,
            "size_mib": round(shape.size_bytes / (1 << 20), DIGITS),
            "n_layer": shape.n_layer,
            "n_ctx_train": shape.n_ctx_train,
        },
        "context": {
            "n_ctx": context.n_ctx,
            "n_ctx_seq": context.n_ctx_seq,
            "parallel": context.n_seq_max,
            "kv_unified": context.unified,
            "n_batch": context.n_batch,
            "n_ubatch": context.n_ubatch,
            "flash_attn": context.flash_attention,
        },
        "layers_on_gpus": plan.placement.offloaded,
        "devices": [_device(device) for device in plan.devices],
        "verdict": plan.verdict,
        "remedies": [{"what": one.what, "options": list(one.options)} for one in found],
        "notes": list(plan.notes),
        "options_without_effect": list(others),
    }


def comparison(analytic: MemoryPlan | None, differences: Sequence[str]) -> dict[str, Any]:
    """More keys of a plan of engine llama.cpp: what the rules say, where they cover the model."""
    devices = None if analytic is None else [_device(device) for device in analytic.devices]
    return {"analytic": devices, "differences": list(differences)}


def _device(device: DevicePlan) -> dict[str, Any]:
    figures = ["weights", "kv", "recurrent", "compute", "overhead"]
    if device.name == HOST:
        figures += ["mapped", "weight_buffers", "prompt_cache", "checkpoints"]
    row: dict[str, Any] = {"name": device.name}
    row.update({f"{figure}_mib": round(getattr(device, f"{figure}_mib"), DIGITS) for figure in figures})
    row["total_mib"] = round(device.total_mib, DIGITS)
    row["free_mib"] = device.free_mib
    row["left_mib"] = None if device.left_mib is None else round(device.left_mib, DIGITS)
    return {**row, "fits": device.fits, "verdict": device.verdict}


def table(plan: MemoryPlan) -> Table:
    """One row a device."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), collapse_padding=True)
    made.add_column("MiB", no_wrap=True)
    for column in ("weights", "KV", "compute", "other", "total", "free", "left"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for device in plan.devices:
        other = device.overhead_mib + device.prompt_cache_mib + device.checkpoints_mib
        figures = (device.weights_mib, device.kv_mib, device.compute_mib, other, device.total_mib)
        made.add_row(
            device.name, *map(_mib, figures), _mib(device.free_mib), _mib(device.left_mib),
            "" if device.free_mib is None else device.verdict,
        )  # fmt: skip
    return made


def _mib(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def lines(plan: MemoryPlan, found: Sequence[Remedy]) -> list[str]:
    """Lines above and below the table: the model first, then the verdict, remedies and notes."""
    context, host = plan.context, plan.devices[-1]
    shared = "sharing" if context.unified else f"of {context.n_ctx_seq:,} tokens, together"
    name = " ".join(plain(plan.shape.name).split())  # whoever made the file chose it
    first = (
        f"{name or plan.shape.files[0].name} ({plan.shape.architecture}): "
        f"{plural(context.n_seq_max, 'slot')} {shared} {context.n_ctx:,} tokens, "
        f"{plan.placement.offloaded} of {plan.shape.n_layer_all + 1} layers on GPUs"
    )
    in_ram = f"{host.prompt_cache_mib:,.0f} MiB of prompts and {host.checkpoints_mib:,.0f} MiB of checkpoints"
    below = [
        f"verdict: {plan.verdict}",
        f"host: up to {in_ram} are in other, {host.mapped_mib:,.2f} MiB of the file are mapped",
    ]
    below += [f"would fit: {one.what}" + (f" ({' '.join(one.options)})" if one.options else "") for one in found]
    return [plain(line) for line in (first, *below, *(f"note: {note}" for note in plan.notes))]
